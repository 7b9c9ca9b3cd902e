//! The exchange of what two nodes know, by digests: what makes catalogues equal for certain.

use std::collections::BTreeMap;

use super::{
    Catalogue,
    news::{TOO_MANY_NAMES, check_about, check_name},
};
use crate::{
    About, Digest, NodeId, Now, Payload,
    digest::{FactDigest, NameText, Record, Writer},
    fact::{Fact, ITEMS_MAX, Segment, VERSION_MAX},
    names::{BUCKETS, Handle, Mark, Names},
    stamp::Stamp,
};

/// Room for a record that ends a fact.
const END_SPARE: usize = 16;
/// By so much more than its owner knows itself, nobody can know a fact: somebody lied.
const LIE_VERSIONS: u64 = 1_000;
const LIE_GENERATIONS: u64 = 16;

/// What a payload brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// How many changes were new.
    pub news: usize,
    /// What was left out, by reason; the rest was used.
    pub refused: BTreeMap<&'static str, u64>,
    /// Whether the sender has more that did not fit.
    pub more: bool,
}

impl Merged {
    fn refuse(&mut self, why: &'static str) {
        *self.refused.entry(why).or_default() += 1;
    }
}

impl Catalogue {
    /// What this node knows, in brief, for another to answer.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let facts = self.facts.iter().map(|(&owner, fact)| FactDigest {
            owner,
            generation: fact.generation,
            contiguous: fact.contiguous,
            clean_ahead: fact.clean.saturating_sub(fact.contiguous),
        });
        let buckets = (0..=u8::MAX).map(|bucket| (bucket, self.names.bucket_hash(usize::from(bucket))));
        Digest {
            from: self.me,
            facts: facts.collect(),
            names: buckets.filter(|(_, hash)| *hash != 0).collect(),
        }
    }

    /// What the sender of a digest lacks, in at most `limit` bytes, which should be a few KiB at least. If it
    /// did not all fit, the payload says so, and an answer to the sender's next digest goes on.
    pub fn answer(&mut self, now: Now, theirs: &Digest, limit: usize) -> Payload {
        self.tick(now);
        self.forgotten.remove(&theirs.from);
        self.believe_owner(theirs);
        let mut writer = Writer::new(limit);
        // Names leave room for facts, which are of more use at once.
        self.answer_names(theirs, &mut writer, limit / 2);
        let known: BTreeMap<NodeId, &FactDigest> =
            theirs.facts.iter().map(|fact| (fact.owner, fact)).collect();
        for (owner, fact) in &self.facts {
            if !write_fact(*owner, fact, known.get(owner).copied(), &self.names, &mut writer) {
                break;
            }
        }
        writer.finish()
    }

    /// Takes over what `from` sent as its answer. A record that cannot be is left out and counted.
    pub fn merge(&mut self, now: Now, from: NodeId, payload: &Payload) -> Merged {
        self.tick(now);
        self.forgotten.remove(&from);
        let mut merged = Merged { more: payload.has_more(), ..Merged::default() };
        let mut reader = Reader::default();
        for record in payload.records() {
            match record {
                Some(record) => self.merge_record(now, record, &mut reader, &mut merged),
                None => {
                    // It may have been one that brings a name.
                    reader.mentioned.push(Err("a name that was refused"));
                    reader.cut();
                    merged.refuse("a malformed record");
                }
            }
        }
        for handle in reader.mentioned.into_iter().flatten() {
            self.names.release(handle);
        }
        self.changed += u64::from(merged.news > 0);
        merged
    }

    fn merge_record(&mut self, now: Now, record: Record<'_>, reader: &mut Reader, merged: &mut Merged) {
        let result = match record {
            Record::Mark { name, made, gone } => reader.name(name, &mut self.names).and_then(|handle| {
                let mark = Mark { made: Stamp::from_bits(made), gone: Stamp::from_bits(gone) };
                self.check_mark(now, mark)?;
                merged.news += usize::from(self.accept_mark(now, handle, mark));
                Ok(())
            }),
            Record::Fact { owner, generation, base, all, floor, full } => {
                let segment = Segment { base, all, floor, full, ..Segment::default() };
                reader.fact = Some((owner, generation, segment));
                (reader.cut, reader.latest) = (None, base);
                Ok(())
            }
            Record::About { version, about } => check_about(&about).map(|()| reader.about(version, about)),
            Record::Held { name, version } => reader.change(name, version, true, &mut self.names),
            Record::Gone { name, version } => reader.change(name, version, false, &mut self.names),
            Record::End { upto } => match reader.fact.take() {
                Some((owner, generation, segment)) => {
                    let sure = reader.cut.take().unwrap_or(upto);
                    self.merge_fact(owner, generation, Segment { upto, sure, ..segment }, merged)
                }
                None => Err("an end without a beginning"),
            },
        };
        if let Err(why) = result {
            self.left_out += u64::from(why == TOO_MANY_NAMES);
            // What there is no room for is never there. Anything else somebody else may say rightly.
            if why != TOO_MANY_NAMES && why != crate::fact::TOO_MANY_ITEMS {
                reader.cut();
            }
            merged.refuse(why);
        }
    }

    pub(super) fn merge_fact(
        &mut self,
        owner: NodeId,
        generation: u64,
        mut segment: Segment,
        merged: &mut Merged,
    ) -> Result<(), &'static str> {
        let (base, upto) = (segment.base, segment.upto);
        let is_possible =
            base < upto && upto <= segment.all && segment.all <= VERSION_MAX && segment.floor <= segment.all;
        if !is_possible {
            return Err("an impossible part of a fact");
        }
        let is_within = |version: u64| version > base && version <= upto;
        let count = segment.changes.len();
        segment.changes.retain(|&(_, version, _)| is_within(version));
        segment.about = segment.about.filter(|&(version, _)| is_within(version));
        if segment.changes.len() < count {
            // What it should have been is not known.
            segment.sure = base;
            merged.refuse("a change with an impossible number");
        }
        if self.fact_mut(owner, generation, segment.all)?.is_none() {
            return Ok(());
        }
        let Some(fact) = self.facts.get_mut(&owner) else { return Ok(()) };
        let mut left_out = 0;
        merged.news += fact.take(segment, &mut self.names, |why| {
            left_out += 1;
            merged.refused.entry(why).and_modify(|count| *count += 1).or_insert(1);
        });
        self.left_out += left_out;
        self.unhide_lost(owner);
        Ok(())
    }

    /// Who makes a fact knows best how far it goes; what goes far beyond was a lie and is dropped.
    fn believe_owner(&mut self, theirs: &Digest) {
        let Some((generation, contiguous)) = theirs.knows(theirs.from).filter(|_| theirs.from != self.me)
        else {
            return;
        };
        let Some(fact) = self.facts.get_mut(&theirs.from) else { return };
        let is_lie = fact.generation > generation.saturating_add(LIE_GENERATIONS)
            || (fact.generation == generation && fact.contiguous > contiguous.saturating_add(LIE_VERSIONS));
        if is_lie {
            fact.clear(&mut self.names);
            *fact = Fact::new(generation);
            self.changed += 1;
        } else if fact.generation == generation && fact.head > contiguous.saturating_add(LIE_VERSIONS) {
            fact.head = contiguous.max(fact.contiguous);
        }
    }

    /// The names of the buckets that differ. What does not fit comes next time: an answer begins where the
    /// last one ended.
    fn answer_names(&mut self, theirs: &Digest, writer: &mut Writer, spare: usize) {
        let mut hashes = [0; BUCKETS];
        for &(bucket, hash) in &theirs.names {
            if let Some(known) = hashes.get_mut(usize::from(bucket)) {
                *known = hash;
            }
        }
        let (first, skipped) = std::mem::take(&mut self.cursor);
        for bucket in (first..BUCKETS).chain(0..first) {
            if hashes.get(bucket) == Some(&self.names.bucket_hash(bucket)) {
                continue;
            }
            let skipped = if bucket == first { skipped } else { 0 };
            let marked = self.names.bucket(bucket).filter(|(_, _, mark)| *mark != Mark::NONE);
            for (place, (handle, name, mark)) in marked.enumerate().skip(skipped) {
                let (made, gone) = (mark.made.bits(), mark.gone.bits());
                if !writer.push_named(handle, name, spare, |name| Record::Mark { name, made, gone }) {
                    self.cursor = (bucket, place);
                    return;
                }
            }
        }
    }
}

/// What was read of a payload so far.
#[derive(Default)]
struct Reader {
    /// The names in the order in which they were mentioned first. Each is used once until the end, so that it
    /// is not thrown away before.
    mentioned: Vec<Result<Handle, &'static str>>,
    fact: Option<(NodeId, u64, Segment)>,
    /// The last change of the fact that could be read.
    latest: u64,
    /// Up to which change the fact is known for sure, if something after it could not be read: changes come
    /// in their order, and one that was skipped would be missing for ever.
    cut: Option<u64>,
}

impl Reader {
    fn name(&mut self, text: NameText<'_>, names: &mut Names) -> Result<Handle, &'static str> {
        match text {
            NameText::New(topic, channel) => {
                let valid = check_name(topic, channel);
                let handle = valid.and_then(|()| names.intern(topic, channel).ok_or(TOO_MANY_NAMES));
                self.mentioned.push(handle);
                handle
            }
            NameText::Again(place) => match self.mentioned.get(place as usize) {
                Some(handle) => *handle,
                None => Err("a name that was not mentioned"),
            },
        }
    }

    fn change(
        &mut self,
        text: NameText<'_>,
        version: u64,
        held: bool,
        names: &mut Names,
    ) -> Result<(), &'static str> {
        let handle = self.name(text, names)?;
        let (_, _, segment) = self.fact.as_mut().ok_or("a change of no fact")?;
        // As many as a node may hold, and as many as it may remember to have lost.
        if segment.changes.len() >= 2 * ITEMS_MAX {
            return Err(crate::fact::TOO_MANY_ITEMS);
        }
        segment.changes.push((handle, version, held));
        self.latest = version;
        Ok(())
    }

    fn about(&mut self, version: u64, about: About) {
        if let Some((_, _, segment)) = &mut self.fact {
            segment.about = Some((version, about));
            self.latest = version;
        }
    }

    /// Something could not be read: the fact is not known beyond what came before it.
    fn cut(&mut self) {
        self.cut.get_or_insert(self.latest);
    }
}

/// Writes what somebody lacks of a fact; `false` if it did not all fit.
fn write_fact(
    owner: NodeId,
    fact: &Fact,
    theirs: Option<&FactDigest>,
    names: &Names,
    writer: &mut Writer,
) -> bool {
    let (known, clean) = match theirs {
        Some(theirs) if theirs.generation > fact.generation => return true,
        Some(theirs) if theirs.generation == fact.generation => {
            (theirs.contiguous, theirs.contiguous.saturating_add(theirs.clean_ahead))
        }
        _ => (0, 0),
    };
    let all = fact.contiguous;
    if known >= all {
        return true;
    }
    // Losses that are forgotten here cannot be told one by one.
    let full = clean < fact.floor;
    let base = if full { 0 } else { known };
    let head = Record::Fact { owner, generation: fact.generation, base, all, floor: fact.floor, full };
    if !writer.push(&head, END_SPARE) {
        return false;
    }
    let mut upto = base;
    for change in changes(fact, base, full) {
        let fits = match change {
            Change::About(version) => fact.about.as_ref().is_none_or(|about| {
                writer.push(&Record::About { version, about: about.as_ref().clone() }, END_SPARE)
            }),
            Change::Name(version, handle, held) => names.name(handle).is_none_or(|name| {
                writer.push_named(handle, name, END_SPARE, |name| match held {
                    true => Record::Held { name, version },
                    false => Record::Gone { name, version },
                })
            }),
        };
        if !fits {
            if upto > base {
                writer.push(&Record::End { upto }, 0);
            }
            return false;
        }
        upto = change.version();
    }
    writer.push(&Record::End { upto: all }, 0)
}

#[derive(Clone, Copy)]
enum Change {
    About(u64),
    Name(u64, Handle, bool),
}

impl Change {
    const fn version(self) -> u64 {
        match self {
            Self::About(version) | Self::Name(version, ..) => version,
        }
    }
}

/// The changes after `base` that still count, in their order.
fn changes(fact: &Fact, base: u64, full: bool) -> Vec<Change> {
    let is_wanted = |version: u64| version > base && version <= fact.contiguous;
    let held = fact.items.iter().map(|item| Change::Name(item.version, item.handle, true));
    let lost = fact.gone.iter().map(|(handle, version)| Change::Name(*version, *handle, false));
    let about = [Change::About(fact.about_version)];
    let all = held.chain(lost.filter(|_| !full)).chain(about);
    let mut wanted: Vec<Change> = all.filter(|change| is_wanted(change.version())).collect();
    wanted.sort_unstable_by_key(|change| change.version());
    wanted
}
