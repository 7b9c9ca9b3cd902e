//! Finds commands at the start of a buffer that grows.
//!
//! The order of the checks is nsqd's, as is the moment of each: a bad name is reported when its line is
//! there, a bad length when its four bytes are, neither waits for a body. The decoder owns no bytes, only
//! a few numbers that keep it from reading the same ones twice.

use super::{
    ClientError, Command, Phase, Rules,
    publish::{MultiPublish, RepeatedPublish},
};
use crate::name::is_valid_name;
use memchr::memchr;

/// The longest command line, in bytes, its newline included. A client that sends a longer one is dropped
/// without an error frame, as nsqd does: see [`ClientError::is_silent`].
pub const LINE_LEN_MAX: usize = 16 * 1024;

/// Decodes the commands of one connection, one at a time.
///
/// The caller keeps the bytes: each call gets all bytes received and not yet consumed. However small the
/// pieces are that they come in, a byte is searched for a newline once, a message of an `MPUB` is walked
/// over once, and a whole line is split at most three times.
#[derive(Debug)]
pub struct Decoder {
    /// What the last call was short of.
    need: Need,
    /// How many bytes have been searched for a newline in vain.
    scanned: usize,
    /// An `MPUB` whose line and length were there and whose messages are not, yet.
    multi: Option<MultiPublish>,
    repeated: RepeatedPublish,
}

/// What a call to [`Decoder::decode`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded<'b> {
    /// No whole command, and nothing wrong so far.
    Need(Need),
    /// A command at the start of the input.
    Command {
        /// The command.
        command: Command<'b>,
        /// How many bytes of the input it took; the next call's input starts behind them.
        consumed: usize,
    },
}

/// What is missing of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// How many bytes the input must have before another call can succeed. Never more than
    /// [`LINE_LEN_MAX`] + 4 + the larger of `max_body_size` and `max_msg_size`, whatever a client claims.
    pub at_least: usize,
    pub(super) part: Part,
}

/// The part of a command that is not there in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Line,
    BodySize(&'static str),
    Body(&'static str),
    MessageCount,
    MessageSize(u32),
}

impl Need {
    const COMMAND: Self = Self { at_least: 1, part: Part::Line };

    /// The error owed to a client that stalls or hangs up here. `None` while waiting for a line: the
    /// connection is then closed without a word.
    pub fn interrupted(&self) -> Option<ClientError> {
        match self.part {
            Part::Line => None,
            Part::BodySize(command) => Some(ClientError::body_size_unread(command)),
            Part::Body(command) => Some(ClientError::body_unread(command)),
            Part::MessageCount => Some(ClientError::message_count_unread()),
            Part::MessageSize(index) => Some(ClientError::message_size_unread(index)),
        }
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder for a connection whose [`MAGIC_V2`](super::MAGIC_V2) has been taken off.
    pub fn new() -> Self {
        Self { need: Need::COMMAND, scanned: 0, multi: None, repeated: RepeatedPublish::default() }
    }

    /// Looks for a command at the start of `input`, which must begin with the bytes of the previous call
    /// unless that call returned a command. `rules` may differ from one command to the next.
    ///
    /// Every error is fatal: the connection is to be closed and the decoder dropped. Only an error that
    /// [`is_silent`](ClientError::is_silent) is not sent to the client first.
    pub fn decode<'b>(&mut self, input: &'b [u8], rules: &Rules) -> Result<Decoded<'b>, ClientError> {
        if input.len() < self.need.at_least {
            return Ok(Decoded::Need(self.need));
        }
        // These two are nearly all that a busy node reads, so they skip the splitting of lines.
        if let Some(id) = plain_finish(input)
            && matches!(rules.phase, Phase::Subscribed | Phase::Closing)
        {
            (self.need, self.scanned) = (Need::COMMAND, 0);
            return Ok(Decoded::Command { command: Command::Finish { id }, consumed: FINISH_LINE_LEN });
        }
        if let Some((topic, line_len)) = self.repeated.match_line(input)
            && let Some((body, consumed)) = plain_body(input, line_len, rules.max_msg_size)
        {
            (self.need, self.scanned) = (Need::COMMAND, 0);
            return Ok(Decoded::Command { command: Command::Publish { topic, body }, consumed });
        }
        Ok(match self.find(input, rules)? {
            Found::Command(command, consumed) => {
                (self.need, self.scanned, self.multi) = (Need::COMMAND, 0, None);
                Decoded::Command { command, consumed }
            }
            Found::Need(need) => {
                self.need = need;
                Decoded::Need(need)
            }
        })
    }

    fn find<'b>(&mut self, input: &'b [u8], rules: &Rules) -> Result<Found<'b>, ClientError> {
        if let Some(multi) = &mut self.multi {
            return multi.resume(input, rules);
        }
        let Some(line_len) = self.line_len(input)? else {
            let at_least = input.len() + 1;
            return Ok(Found::Need(Need { at_least, part: Part::Line }));
        };
        self.dispatch(input, line_len, rules)
    }

    /// The length of the first line with its newline, if it is there.
    fn line_len(&mut self, input: &[u8]) -> Result<Option<usize>, ClientError> {
        let searchable = input.get(..LINE_LEN_MAX).unwrap_or(input);
        let unseen = searchable.get(self.scanned..).unwrap_or_default();
        match memchr(b'\n', unseen) {
            Some(at) => {
                // A later call for the same command starts right at the newline.
                self.scanned += at;
                Ok(Some(self.scanned + 1))
            }
            None if searchable.len() == LINE_LEN_MAX => Err(ClientError::line_too_long()),
            None => {
                self.scanned = searchable.len();
                Ok(None)
            }
        }
    }

    fn dispatch<'b>(
        &mut self,
        input: &'b [u8],
        line_len: usize,
        rules: &Rules,
    ) -> Result<Found<'b>, ClientError> {
        let line = input.get(..line_len - 1).unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let mut params = Params(Some(line));
        let word = params.next().unwrap_or_default();
        if rules.phase == Phase::Insecure && word != b"IDENTIFY" {
            return Err(ClientError::tls_required(word));
        }
        let command = match word {
            b"PUB" => {
                let topic = topic_param("PUB", &mut params)?;
                self.repeated.remember(input, topic.len(), line_len);
                return publish(input, line_len, topic, rules);
            }
            b"MPUB" => {
                let topic = topic_param("MPUB", &mut params)?;
                return self.multi.insert(MultiPublish::new(line_len, topic.len())).resume(input, rules);
            }
            b"DPUB" => return deferred_publish(input, line_len, params, rules),
            b"IDENTIFY" | b"AUTH" => return credentials(input, line_len, word, params, rules),
            b"SUB" => subscribe(params, rules)?,
            b"RDY" => ready(params, rules)?,
            b"FIN" => Command::Finish { id: id_param("FIN", params, rules)? },
            b"TOUCH" => Command::Touch { id: id_param("TOUCH", params, rules)? },
            b"REQ" => requeue(params, rules)?,
            b"CLS" if rules.phase == Phase::Subscribed => Command::Close,
            b"CLS" => return Err(ClientError::wrong_state("CLS")),
            b"NOP" => Command::Nop,
            _ => return Err(ClientError::invalid_command(word)),
        };
        Ok(Found::Command(command, line_len))
    }
}

/// [`Decoded`], before the decoder has taken note of it.
pub(super) enum Found<'b> {
    Command(Command<'b>, usize),
    Need(Need),
}

/// The body of at most `max` bytes whose length starts at `offset`, or what is missing of it.
pub(super) fn sized_body<'b>(
    input: &'b [u8],
    offset: usize,
    command: &'static str,
    max: usize,
    too_big: fn(&str, usize, usize) -> ClientError,
) -> Result<Result<(&'b [u8], usize), Need>, ClientError> {
    let Some(size) = be_i32(input, offset) else {
        return Ok(Err(Need { at_least: offset + 4, part: Part::BodySize(command) }));
    };
    let len = match usize::try_from(size) {
        Err(_) | Ok(0) => return Err(ClientError::invalid_body_size(command, size)),
        Ok(len) if len > max => return Err(too_big(command, len, max)),
        Ok(len) => len,
    };
    let (start, end) = (offset + 4, offset + 4 + len);
    let body = input.get(start..end).map(|body| (body, end));
    Ok(body.ok_or(Need { at_least: end, part: Part::Body(command) }))
}

/// The four bytes at `offset` as the number that they are.
pub(super) fn be_i32(input: &[u8], offset: usize) -> Option<i32> {
    Some(i32::from_be_bytes(*input.get(offset..)?.first_chunk()?))
}

/// The whole body whose length starts at `offset`, if it is there and nothing is wrong with it. Anything
/// else is for [`sized_body`] to tell.
fn plain_body(input: &[u8], offset: usize, max: usize) -> Option<(&[u8], usize)> {
    let (size, rest) = input.get(offset..)?.split_first_chunk()?;
    let len = u32::from_be_bytes(*size) as usize;
    let body = rest.get(..len).filter(|body| !body.is_empty() && len <= max)?;
    Some((body, offset + 4 + len))
}

fn publish<'b>(
    input: &'b [u8],
    line_len: usize,
    topic: &'b str,
    rules: &Rules,
) -> Result<Found<'b>, ClientError> {
    let body = sized_body(input, line_len, "PUB", rules.max_msg_size, ClientError::message_too_big)?;
    Ok(match body {
        Ok((body, end)) => Found::Command(Command::Publish { topic, body }, end),
        Err(need) => Found::Need(need),
    })
}

fn deferred_publish<'b>(
    input: &'b [u8],
    line_len: usize,
    mut params: Params<'b>,
    rules: &Rules,
) -> Result<Found<'b>, ClientError> {
    let (Some(topic), Some(delay)) = (params.next(), params.next()) else {
        return Err(ClientError::insufficient_parameters("DPUB"));
    };
    let topic = valid_topic("DPUB", topic)?;
    let delay_ms = parse_number(delay).ok_or_else(|| ClientError::unparsable_timeout("DPUB", delay))?;
    if delay_ms > rules.max_defer_timeout_ms {
        return Err(ClientError::defer_timeout_out_of_range(delay_ms, rules.max_defer_timeout_ms));
    }
    let body = sized_body(input, line_len, "DPUB", rules.max_msg_size, ClientError::message_too_big)?;
    Ok(match body {
        Ok((body, end)) => Found::Command(Command::DeferredPublish { topic, delay_ms, body }, end),
        Err(need) => Found::Need(need),
    })
}

/// `IDENTIFY` and `AUTH`: a body that only the node can judge.
fn credentials<'b>(
    input: &'b [u8],
    line_len: usize,
    word: &[u8],
    mut params: Params<'b>,
    rules: &Rules,
) -> Result<Found<'b>, ClientError> {
    let command = if word == b"AUTH" { "AUTH" } else { "IDENTIFY" };
    if !matches!(rules.phase, Phase::Init | Phase::Insecure) {
        return Err(ClientError::wrong_state(command));
    }
    if command == "AUTH" && params.next().is_some() {
        return Err(ClientError::auth_parameters());
    }
    let body = sized_body(input, line_len, command, rules.max_body_size, ClientError::body_too_big)?;
    Ok(match body {
        Ok((secret, end)) if command == "AUTH" => Found::Command(Command::Auth { secret }, end),
        Ok((body, end)) => Found::Command(Command::Identify { body }, end),
        Err(need) => Found::Need(need),
    })
}

fn subscribe<'b>(mut params: Params<'b>, rules: &Rules) -> Result<Command<'b>, ClientError> {
    if rules.phase != Phase::Init {
        return Err(ClientError::wrong_state("SUB"));
    }
    if !rules.heartbeats {
        return Err(ClientError::heartbeats_disabled());
    }
    let (Some(topic), Some(channel)) = (params.next(), params.next()) else {
        return Err(ClientError::insufficient_parameters("SUB"));
    };
    let topic = valid_topic("SUB", topic)?;
    let channel = valid_name(channel).ok_or_else(|| ClientError::bad_channel(channel))?;
    Ok(Command::Subscribe { topic, channel })
}

fn ready<'b>(mut params: Params<'b>, rules: &Rules) -> Result<Command<'b>, ClientError> {
    match rules.phase {
        Phase::Init | Phase::Insecure => return Err(ClientError::wrong_state("RDY")),
        Phase::Closing => return Ok(Command::Nop),
        Phase::Subscribed => {}
    }
    let count = params.next().unwrap_or(b"1");
    let count = parse_number(count).ok_or_else(|| ClientError::unparsable_ready_count(count))?;
    if count > rules.max_rdy_count {
        return Err(ClientError::ready_count_out_of_range(count as i64, rules.max_rdy_count));
    }
    Ok(Command::Ready { count })
}

fn requeue<'b>(mut params: Params<'b>, rules: &Rules) -> Result<Command<'b>, ClientError> {
    subscribed("REQ", rules)?;
    let (Some(id), Some(delay)) = (params.next(), params.next()) else {
        return Err(ClientError::insufficient_parameters("REQ"));
    };
    let id = id.try_into().map_err(|_| ClientError::invalid_message_id())?;
    let delay_ms = parse_number(delay).ok_or_else(|| ClientError::unparsable_timeout("REQ", delay))?;
    Ok(Command::Requeue { id, delay_ms: delay_ms.min(rules.max_req_timeout_ms) })
}

/// The one parameter of `FIN` and `TOUCH`.
fn id_param<'b>(
    command: &'static str,
    mut params: Params<'b>,
    rules: &Rules,
) -> Result<&'b [u8; 16], ClientError> {
    subscribed(command, rules)?;
    let id = params.next().ok_or_else(|| ClientError::insufficient_parameters(command))?;
    id.try_into().map_err(|_| ClientError::invalid_message_id())
}

fn subscribed(command: &'static str, rules: &Rules) -> Result<(), ClientError> {
    if matches!(rules.phase, Phase::Init | Phase::Insecure) {
        Err(ClientError::wrong_state(command))
    } else {
        Ok(())
    }
}

fn topic_param<'b>(command: &'static str, params: &mut Params<'b>) -> Result<&'b str, ClientError> {
    let name = params.next().ok_or_else(|| ClientError::insufficient_parameters(command))?;
    valid_topic(command, name)
}

fn valid_topic<'b>(command: &'static str, name: &'b [u8]) -> Result<&'b str, ClientError> {
    valid_name(name).ok_or_else(|| ClientError::bad_topic(command, name))
}

fn valid_name(name: &[u8]) -> Option<&str> {
    if is_valid_name(name) { std::str::from_utf8(name).ok() } else { None }
}

/// A number as nsqd reads it: digits only, none at all is 0, and too many wrap around.
fn parse_number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        Some(number.wrapping_mul(10).wrapping_add(digit))
    })
}

/// The pieces of a line between single spaces. Two spaces in a row have an empty piece between them.
struct Params<'b>(Option<&'b [u8]>);

impl<'b> Iterator for Params<'b> {
    type Item = &'b [u8];

    fn next(&mut self) -> Option<&'b [u8]> {
        let line = self.0?;
        let (piece, rest) = match memchr(b' ', line) {
            Some(at) => (line.get(..at)?, line.get(at + 1..)),
            None => (line, None),
        };
        self.0 = rest;
        Some(piece)
    }
}

const FINISH_LINE_LEN: usize = b"FIN 0123456789abcdef\n".len();

/// The id of a `FIN` line that is as nearly every one is: 16 bytes that are visible ASCII, and no more.
/// Any other goes the long way.
fn plain_finish(input: &[u8]) -> Option<&[u8; 16]> {
    const HIGH_BITS: u128 = u128::from_be_bytes([0x80; 16]);
    const FIRST_VISIBLE: u128 = u128::from_be_bytes([b'!'; 16]);
    let line: &[u8; FINISH_LINE_LEN] = input.first_chunk()?;
    let [b'F', b'I', b'N', b' ', id @ .., b'\n'] = line else { return None };
    let bytes = u128::from_be_bytes(*id);
    // With its high bit set no byte can borrow from the next, and it keeps the bit if it is visible.
    let is_plain = bytes & HIGH_BITS == 0 && ((bytes | HIGH_BITS) - FIRST_VISIBLE) & HIGH_BITS == HIGH_BITS;
    is_plain.then_some(id)
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
