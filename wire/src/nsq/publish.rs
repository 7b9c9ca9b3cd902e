//! Publishing at speed: many `PUB` lines that are the same, and an `MPUB` that arrives in pieces.

use super::{
    ClientError, Command, Messages, Rules,
    decode::{Found, Need, Part, be_i32},
};

/// Room for `PUB`, a space, the longest name, a carriage return and a newline, with some to spare.
const REMEMBERED_LEN: usize = 80;

/// The last `PUB` line of the connection, which is most likely also its next: comparing it costs less than
/// splitting and checking another.
#[derive(Debug)]
pub(super) struct RepeatedPublish {
    line: [u8; REMEMBERED_LEN],
    line_len: u8,
    topic_len: u8,
}

impl Default for RepeatedPublish {
    fn default() -> Self {
        Self { line: [0; REMEMBERED_LEN], line_len: 0, topic_len: 0 }
    }
}

impl RepeatedPublish {
    const TOPIC_OFFSET: usize = b"PUB ".len();

    /// The topic and length of the first line of `input`, if it is the remembered one.
    pub(super) fn match_line<'b>(&self, input: &'b [u8]) -> Option<(&'b str, usize)> {
        let line_len = usize::from(self.line_len);
        let line = self.line.get(..line_len).filter(|line| !line.is_empty())?;
        if !input.starts_with(line) {
            return None;
        }
        let topic = input.get(Self::TOPIC_OFFSET..Self::TOPIC_OFFSET + usize::from(self.topic_len))?;
        Some((std::str::from_utf8(topic).ok()?, line_len))
    }

    /// Remembers the first `line_len` bytes of `input`, a `PUB` line with a valid topic of `topic_len` bytes.
    pub(super) fn remember(&mut self, input: &[u8], topic_len: usize, line_len: usize) {
        let (Some(line), Some(slot)) = (input.get(..line_len), self.line.get_mut(..line_len)) else {
            return;
        };
        slot.copy_from_slice(line);
        // Both are below REMEMBERED_LEN.
        (self.line_len, self.topic_len) = (line_len as u8, topic_len as u8);
    }
}

/// An `MPUB` of which at least the line is there.
///
/// Like nsqd it goes by the number of messages, not by the length of the body. Unlike nsqd it also holds
/// the messages it has counted to the limit of a body, so that a lying length cannot grow the buffer.
#[derive(Debug)]
pub(super) struct MultiPublish {
    line_len: usize,
    topic_len: usize,
    /// The number of messages and where the next one's length starts, once the number is known.
    progress: Option<Progress>,
}

#[derive(Clone, Copy, Debug)]
struct Progress {
    count: u32,
    checked: u32,
    offset: usize,
}

impl MultiPublish {
    const TOPIC_OFFSET: usize = b"MPUB ".len();

    pub(super) fn new(line_len: usize, topic_len: usize) -> Self {
        Self { line_len, topic_len, progress: None }
    }

    /// Checks the messages that have arrived since the last call.
    pub(super) fn resume<'b>(&mut self, input: &'b [u8], rules: &Rules) -> Result<Found<'b>, ClientError> {
        let progress = match &mut self.progress {
            Some(progress) => progress,
            None => match read_count(input, self.line_len, rules)? {
                Ok(count) => self.progress.insert(Progress { count, checked: 0, offset: self.line_len + 8 }),
                Err(need) => return Ok(Found::Need(need)),
            },
        };
        if let Some(need) = progress.check_messages(input, self.line_len + 4, rules)? {
            return Ok(Found::Need(need));
        }
        let topic = input.get(Self::TOPIC_OFFSET..Self::TOPIC_OFFSET + self.topic_len).unwrap_or_default();
        let topic = std::str::from_utf8(topic).map_err(|_| ClientError::bad_topic("MPUB", topic))?;
        let sized_bodies = input.get(self.line_len + 8..progress.offset).unwrap_or_default();
        let messages = Messages::new(progress.count, sized_bodies);
        Ok(Found::Command(Command::MultiPublish { topic, messages }, progress.offset))
    }
}

/// The number of messages of the `MPUB` whose body's length is at `offset`.
fn read_count(input: &[u8], offset: usize, rules: &Rules) -> Result<Result<u32, Need>, ClientError> {
    let Some(size) = be_i32(input, offset) else {
        return Ok(Err(Need { at_least: offset + 4, part: Part::BodySize("MPUB") }));
    };
    match usize::try_from(size) {
        Err(_) | Ok(0) => return Err(ClientError::invalid_body_size("MPUB", size)),
        Ok(len) if len > rules.max_body_size => {
            return Err(ClientError::body_too_big("MPUB", len, rules.max_body_size));
        }
        Ok(_) => {}
    }
    let Some(count) = be_i32(input, offset + 4) else {
        return Ok(Err(Need { at_least: offset + 8, part: Part::MessageCount }));
    };
    // The smallest message takes five bytes: its length and one more.
    let count_max = rules.max_body_size.saturating_sub(4) / 5;
    match u32::try_from(count) {
        Ok(number @ 1..) if number as usize <= count_max => Ok(Ok(number)),
        _ => Err(ClientError::invalid_message_count(count)),
    }
}

impl Progress {
    /// Walks over the messages that are whole. `body_start` is where the number of messages is, which the
    /// limit of a body counts from.
    fn check_messages(
        &mut self,
        input: &[u8],
        body_start: usize,
        rules: &Rules,
    ) -> Result<Option<Need>, ClientError> {
        while self.checked < self.count {
            let Some(size) = be_i32(input, self.offset) else {
                return self.need(self.offset + 4, Part::MessageSize(self.checked), body_start, rules);
            };
            let end = match usize::try_from(size) {
                Err(_) | Ok(0) => return Err(ClientError::invalid_message_size(self.checked, size)),
                Ok(len) if len > rules.max_msg_size => {
                    return Err(ClientError::message_too_big("MPUB", len, rules.max_msg_size));
                }
                Ok(len) => self.offset + 4 + len,
            };
            if end - body_start > rules.max_body_size || end > input.len() {
                return self.need(end, Part::Body("MPUB"), body_start, rules);
            }
            (self.offset, self.checked) = (end, self.checked + 1);
        }
        Ok(None)
    }

    /// More bytes, unless the limit of a body forbids to wait for as many.
    fn need(
        &self,
        at_least: usize,
        part: Part,
        body_start: usize,
        rules: &Rules,
    ) -> Result<Option<Need>, ClientError> {
        let body_len = at_least - body_start;
        if body_len > rules.max_body_size {
            return Err(ClientError::body_too_big("MPUB", body_len, rules.max_body_size));
        }
        Ok(Some(Need { at_least, part }))
    }
}
