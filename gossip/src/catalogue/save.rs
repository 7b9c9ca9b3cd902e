//! The names as they are kept on disk, so that a delete is remembered while a node is down.
//!
//! After a line that says the version there is a row of records: length (u16), CRC-32 (u32), both
//! little-endian, and a postcard value. A damaged record is skipped: the next one is looked for byte by byte.

use std::time::Duration;

use bruit_wire::ChannelName;
use serde::{Deserialize, Serialize};

use super::{Catalogue, DOOMED_MAX, RECOVERED_BY, news::check_name};
use crate::{names::Mark, stamp::Stamp};

const HEADER: &[u8] = b"bruit-names 1\n";
/// No record is longer: two names, two stamps, and a flag.
const RECORD_MAX: usize = 256;

#[derive(Serialize, Deserialize)]
struct Record<'a> {
    topic: &'a str,
    channel: Option<&'a str>,
    made: Stamp,
    gone: Stamp,
    /// Whether an instance that the journal brings back is older than the delete.
    doomed: bool,
}

impl Catalogue {
    /// What has to outlive the process.
    #[must_use]
    pub fn saved(&self) -> Vec<u8> {
        let mut bytes = HEADER.to_vec();
        for (_, name, mark) in self.names.iter().filter(|(_, _, mark)| *mark != Mark::NONE) {
            let doomed = self.doomed.contains_key(name);
            let channel = name.channel.as_ref().map(ChannelName::as_str);
            let Mark { made, gone } = mark;
            push(&mut bytes, &Record { topic: name.topic.as_str(), channel, made, gone, doomed });
        }
        // A channel that went with its topic has no mark of its own.
        for name in self.doomed.keys() {
            let channel = name.channel.as_ref().map(ChannelName::as_str);
            if self.names.mark_of(name.topic.as_str(), channel) == Mark::NONE {
                let (made, gone) = (Stamp::NEVER, Stamp::NEVER);
                push(&mut bytes, &Record { topic: name.topic.as_str(), channel, made, gone, doomed: true });
            }
        }
        bytes
    }

    /// Takes back what [`saved`](Self::saved) gave, before anything else is done. What is damaged is left
    /// out: the mesh knows it as well.
    pub fn restore(&mut self, saved: &[u8]) {
        let Some(mut rest) = saved.strip_prefix(HEADER) else { return };
        while !rest.is_empty() {
            match split(rest) {
                Some((record, after)) => {
                    self.restore_one(&record);
                    rest = after;
                }
                None => rest = rest.get(1..).unwrap_or_default(),
            }
        }
    }

    fn restore_one(&mut self, record: &Record<'_>) {
        if check_name(record.topic, record.channel).is_err() {
            return;
        }
        let Some(handle) = self.names.intern(record.topic, record.channel) else { return };
        let mark = Mark { made: record.made, gone: record.gone };
        if self.names.apply(handle, mark) {
            self.clock.observe(mark.latest());
            self.names_changed();
        }
        if let Some(name) =
            self.names.name(handle).filter(|_| record.doomed && self.doomed.len() < DOOMED_MAX)
        {
            let until: Duration = RECOVERED_BY;
            self.doomed.insert(name.clone(), until);
        }
        self.names.release(handle);
    }
}

fn push(bytes: &mut Vec<u8>, record: &Record<'_>) {
    let mut scratch = [0; RECORD_MAX];
    let Ok(record) = postcard::to_slice(record, &mut scratch) else { return };
    bytes.extend_from_slice(&(record.len() as u16).to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(record).to_le_bytes());
    bytes.extend_from_slice(record);
}

fn split(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::from(u16::from_le_bytes(*length));
    let (record, rest) = (length <= RECORD_MAX).then(|| rest.split_at_checked(length))??;
    let is_whole = crc32fast::hash(record) == u32::from_le_bytes(*crc);
    let record = is_whole.then(|| postcard::from_bytes(record).ok())??;
    Some((record, rest))
}
