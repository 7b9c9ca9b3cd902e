//! What two nodes tell each other to find out what either lacks, and what they send then.
//!
//! A [`Digest`] says how far a node knows each fact, and a hash for each bucket of names. A [`Payload`] is a
//! row of [`Record`]s, each with its length before it, so that one that cannot be read spoils no other.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, SeqAccess, Visitor},
};

use crate::{About, NodeId, event::LEG_MAX, names::BUCKETS};

/// Most nodes whose facts are kept.
pub(crate) const OWNERS_MAX: usize = 4_096;

/// No record is longer: the longest is what a node says about itself.
const RECORD_MAX: usize = 8 * 1024;

/// What a node knows, in brief: about 14 bytes per node and up to 2.3 KiB for the names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    pub(crate) from: NodeId,
    #[serde(deserialize_with = "bounded::<_, _, OWNERS_MAX>")]
    pub(crate) facts: Vec<FactDigest>,
    /// The buckets that are not empty, with their hashes.
    #[serde(deserialize_with = "bounded::<_, _, BUCKETS>")]
    pub(crate) names: Vec<(u8, u64)>,
}

impl Digest {
    /// Which generation of this node the sender knows, and up to which of its changes it knows them all.
    #[must_use]
    pub fn knows(&self, owner: NodeId) -> Option<(u64, u64)> {
        let fact = self.facts.iter().find(|fact| fact.owner == owner)?;
        Some((fact.generation, fact.contiguous))
    }
}

/// How far a fact is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FactDigest {
    pub(crate) owner: NodeId,
    pub(crate) generation: u64,
    pub(crate) contiguous: u64,
    /// By how much [`clean`](crate::fact::Fact::clean) lies above `contiguous`.
    pub(crate) clean_ahead: u64,
}

/// What a node lacks, as far as it fitted.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Payload {
    records: Vec<u8>,
    more: bool,
}

impl Payload {
    /// Whether something was left out for want of room: another exchange will bring it.
    #[must_use]
    pub const fn has_more(&self) -> bool {
        self.more
    }

    /// Bytes that it takes, up to a few.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.records.len() + PAYLOAD_OVERHEAD
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The records; `None` in place of one that cannot be read.
    pub(crate) fn records(&self) -> impl Iterator<Item = Option<Record<'_>>> {
        let mut rest = self.records.as_slice();
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let Some((record, after)) = split_record(rest) else {
                rest = &[];
                return Some(None);
            };
            rest = after;
            Some(postcard::from_bytes(record).ok())
        })
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload").field("bytes", &self.records.len()).field("more", &self.more).finish()
    }
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.more, Blob(&self.records)).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (more, Blob(records)) = <(bool, Blob<'de>)>::deserialize(deserializer)?;
        if records.len() > LEG_MAX {
            return Err(D::Error::custom("a payload is too long"));
        }
        Ok(Self { records: records.to_vec(), more })
    }
}

/// A payload's bytes are borrowed while they are decoded, so that a false length allocates nothing.
struct Blob<'a>(&'a [u8]);

impl Serialize for Blob<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de> Deserialize<'de> for Blob<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&'de [u8]>::deserialize(deserializer).map(Self)
    }
}

const PAYLOAD_OVERHEAD: usize = 8;

/// A name: in full when a payload mentions it for the first time, afterwards by its place among those.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum NameText<'a> {
    New(&'a str, Option<&'a str>),
    Again(u32),
}

/// A piece of a payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Record<'a> {
    /// When a name was made and deleted.
    Mark {
        #[serde(borrow)]
        name: NameText<'a>,
        made: u64,
        gone: u64,
    },
    /// What follows up to the `End` is about this node; see [`Segment`](crate::fact::Segment).
    Fact { owner: NodeId, generation: u64, base: u64, all: u64, floor: u64, full: bool },
    /// What the node says about itself.
    About { version: u64, about: About },
    /// The node holds this since that change.
    Held {
        #[serde(borrow)]
        name: NameText<'a>,
        version: u64,
    },
    /// The node lost this with that change.
    Gone {
        #[serde(borrow)]
        name: NameText<'a>,
        version: u64,
    },
    /// That was all up to this change.
    End { upto: u64 },
}

/// Writes a payload of limited length.
#[derive(Debug)]
pub(crate) struct Writer {
    records: Vec<u8>,
    /// Where a record is made before it is known whether it fits.
    scratch: Vec<u8>,
    limit: usize,
    more: bool,
    /// Names mentioned so far, by whatever the caller calls them.
    mentioned: BTreeMap<crate::names::Handle, u32>,
}

impl Writer {
    pub(crate) fn new(limit: usize) -> Self {
        let limit = limit.min(LEG_MAX).saturating_sub(PAYLOAD_OVERHEAD);
        Self {
            records: Vec::new(),
            scratch: vec![0; RECORD_MAX],
            limit,
            more: false,
            mentioned: BTreeMap::new(),
        }
    }

    /// Appends a record if afterwards at least `spare` bytes are left. If not, notes that something is left
    /// out.
    pub(crate) fn push(&mut self, record: &Record<'_>, spare: usize) -> bool {
        let Ok(bytes) = postcard::to_slice(record, &mut self.scratch) else { return false };
        let fits = bytes.len() + 3 + spare <= self.limit.saturating_sub(self.records.len());
        if fits {
            let mut prefix = [0; 10];
            let prefix = postcard::to_slice(&bytes.len(), &mut prefix).unwrap_or_default();
            self.records.extend_from_slice(prefix);
            self.records.extend_from_slice(bytes);
        }
        self.more |= !fits;
        fits
    }

    /// Appends a record that mentions a name.
    pub(crate) fn push_named<'a>(
        &mut self,
        handle: crate::names::Handle,
        name: &'a crate::Name,
        spare: usize,
        record: impl FnOnce(NameText<'a>) -> Record<'a>,
    ) -> bool {
        let text = match self.mentioned.get(&handle) {
            Some(&place) => NameText::Again(place),
            None => NameText::New(name.topic.as_str(), name.channel.as_ref().map(|channel| channel.as_str())),
        };
        let fits = self.push(&record(text), spare);
        if fits && matches!(text, NameText::New(..)) {
            let place = self.mentioned.len() as u32;
            self.mentioned.insert(handle, place);
        }
        fits
    }

    pub(crate) fn finish(self) -> Payload {
        Payload { records: self.records, more: self.more }
    }
}

fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest): (usize, _) = postcard::take_from_bytes(bytes).ok()?;
    (length <= RECORD_MAX).then(|| rest.split_at_checked(length))?
}

/// Decodes a sequence that claims at most `MAX` elements, and allocates as they come.
fn bounded<'de, D: Deserializer<'de>, T: Deserialize<'de>, const MAX: usize>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    struct Elements<T, const MAX: usize>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Elements<T, MAX> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {MAX} elements")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<T>, A::Error> {
            if elements.size_hint().is_some_and(|count| count > MAX) {
                return Err(A::Error::custom(format_args!("more than {MAX} elements")));
            }
            let mut all = Vec::new();
            while let Some(element) = elements.next_element()? {
                if all.len() >= MAX {
                    return Err(A::Error::custom(format_args!("more than {MAX} elements")));
                }
                all.push(element);
            }
            Ok(all)
        }
    }
    deserializer.deserialize_seq(Elements::<T, MAX>(PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_that_claims_too_much_is_refused_before_it_is_read() {
        let facts = |count| Digest {
            from: NodeId::new(1),
            facts: vec![
                FactDigest { owner: NodeId::new(2), generation: 1, contiguous: 3, clean_ahead: 0 };
                count
            ],
            names: vec![(7, 9)],
        };
        let bytes = postcard::to_allocvec(&facts(OWNERS_MAX)).unwrap();
        assert_eq!(postcard::from_bytes::<Digest>(&bytes).unwrap(), facts(OWNERS_MAX));
        let bytes = postcard::to_allocvec(&facts(OWNERS_MAX + 1)).unwrap();
        assert!(postcard::from_bytes::<Digest>(&bytes).is_err());
    }

    #[test]
    fn a_record_that_cannot_be_read_spoils_no_other() {
        let end = |upto| Record::End { upto };
        let mut writer = Writer::new(1_000);
        assert!(writer.push(&end(1), 0) && writer.push(&end(2), 0));
        let mut payload = writer.finish();
        // The first record's kind is no kind.
        payload.records[1] = 99;
        let records: Vec<_> = payload.records().collect();
        assert_eq!(records, [None, Some(end(2))]);
        payload.records[0] = 200;
        assert_eq!(payload.records().collect::<Vec<_>>(), [None]);
    }

    #[test]
    fn a_payload_keeps_its_limit_and_says_when_it_is_short() {
        let mut writer = Writer::new(40);
        while writer.push(&Record::End { upto: 1 << 40 }, 0) {}
        let payload = writer.finish();
        assert!(payload.has_more());
        let bytes = postcard::to_allocvec(&payload).unwrap();
        assert!((20..=40).contains(&bytes.len()), "{}", bytes.len());
        assert_eq!(postcard::from_bytes::<Payload>(&bytes).unwrap(), payload);
        assert!(postcard::from_bytes::<Payload>(&[0, 255, 255, 255, 255, 15]).is_err());
    }
}
