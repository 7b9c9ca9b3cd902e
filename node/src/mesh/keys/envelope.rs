//! How a person's tool talks to a node about keys over plain HTTP: sealed with the cluster's secret.
//!
//! ```text
//! GET  /mesh/keys  ->  {"challenge": hex, "cluster": name}
//! POST /mesh/keys  {"challenge": hex, "nonce": hex, "sealed": hex}  ->  {"sealed": hex}
//! ```
//!
//! What is sealed is JSON. HKDF makes a key for each direction of each conversation from a secret, the cluster's
//! name, the node's challenge and the tool's nonce, so each key seals one thing. A challenge counts once, for a
//! minute, and for the node that gave it out: what was recorded is of no use again. The node keeps nothing for
//! those that merely ask for challenges; they carry a code by which it knows its own.

use std::{collections::BTreeMap, time::Duration};

use bruit_gossip::{Keyring, Secret};
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hmac,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Operation, Report, spread::Refusal};

/// How long a challenge counts.
const CHALLENGE_AGE: Duration = Duration::from_secs(60);
/// Challenges that were answered and are remembered, so that none is answered twice. Only holders of a secret
/// can add to them; when there are more in a minute, further ones have to wait.
const ANSWERED_MAX: usize = 1024;
/// Time of issue and random bytes; the code follows.
const STAMP_LEN: usize = 16;
/// Hex characters of a nonce.
const NONCE_HEX: usize = 32;

/// What a node says before it is asked for anything.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Offer {
    pub(crate) challenge: String,
    /// The cluster's name, from which keys derive.
    pub(crate) cluster: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct SealedRequest {
    challenge: String,
    nonce: String,
    sealed: String,
}

/// What a node answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SealedAnswer {
    sealed: String,
}

/// One request and its answer, under one secret.
pub(crate) struct Conversation {
    secret: Secret,
    cluster: String,
    challenge: String,
    nonce: String,
}

#[derive(Clone, Copy)]
enum Direction {
    Request,
    Answer,
}

impl Conversation {
    /// The tool's end. `nonce` is to be random.
    pub(crate) fn new(offer: Offer, secret: Secret, nonce: [u8; NONCE_HEX / 2]) -> Self {
        Self { secret, cluster: offer.cluster, challenge: offer.challenge, nonce: hex(&nonce) }
    }

    /// The body of the request.
    pub(crate) fn request(&self, operation: &Operation) -> serde_json::Result<Vec<u8>> {
        let sealed = self.seal(Direction::Request, serde_json::to_vec(operation)?);
        let (challenge, nonce) = (self.challenge.clone(), self.nonce.clone());
        serde_json::to_vec(&SealedRequest { challenge, nonce, sealed })
    }

    /// The report in the body of an answer. `None` if nobody who knows the secret sealed it for this request.
    pub(crate) fn report(&self, answer: &[u8]) -> Option<Report> {
        let answer: SealedAnswer = serde_json::from_slice(answer).ok()?;
        self.open(Direction::Answer, &answer.sealed)
    }

    /// The answer, sealed.
    pub(super) fn answer(&self, report: &Report) -> serde_json::Result<SealedAnswer> {
        Ok(SealedAnswer { sealed: self.seal(Direction::Answer, serde_json::to_vec(report)?) })
    }

    fn seal(&self, direction: Direction, mut bytes: Vec<u8>) -> String {
        let sealed = self
            .key(direction)
            .and_then(|key| key.seal_in_place_append_tag(no_nonce(), Aad::empty(), &mut bytes).ok());
        // Fails for no length that fits into memory; then nothing must be sent in the clear.
        sealed.map_or_else(String::new, |()| hex(&bytes))
    }

    fn open<T: DeserializeOwned>(&self, direction: Direction, sealed: &str) -> Option<T> {
        let mut bytes = unhex(sealed)?;
        let opened = self.key(direction)?.open_in_place(no_nonce(), Aad::empty(), &mut bytes).ok()?;
        serde_json::from_slice(opened).ok()
    }

    fn key(&self, direction: Direction) -> Option<LessSafeKey> {
        let direction = match direction {
            Direction::Request => "request",
            Direction::Answer => "answer",
        };
        let purpose = format!("keys over HTTP: {direction} {} {}", self.challenge, self.nonce);
        let key = self.secret.derive(&self.cluster, &purpose);
        UnboundKey::new(&CHACHA20_POLY1305, &key).ok().map(LessSafeKey::new)
    }
}

/// Each key seals once.
fn no_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

/// The challenges of a node.
pub(super) struct Challenges {
    key: hmac::Key,
    /// Until when each of those that were answered would count.
    answered: BTreeMap<String, Duration>,
}

impl Challenges {
    /// `seed` is to be random.
    pub(super) fn new(seed: &[u8; 32]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, seed), answered: BTreeMap::new() }
    }

    /// A challenge that counts from `now`, by a clock that never steps. `random` is to be random.
    pub(super) fn offer(&self, now: Duration, random: [u8; 8]) -> String {
        let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let stamp = [millis.to_be_bytes(), random].concat();
        hex(&stamp) + &hex(hmac::sign(&self.key, &stamp).as_ref())
    }

    /// Opens a request. Any secret that is held will do, as in all of the mesh.
    pub(super) fn open(
        &mut self,
        now: Duration,
        cluster: &str,
        keyring: &Keyring,
        request: &[u8],
    ) -> Result<(Operation, Conversation), Refusal> {
        let request: SealedRequest = serde_json::from_slice(request).map_err(|_| Refusal::Malformed)?;
        if request.nonce.len() != NONCE_HEX {
            return Err(Refusal::Malformed);
        }
        let expires = self.issued(&request.challenge).ok_or(Refusal::Stale)? + CHALLENGE_AGE;
        self.answered.retain(|_, expires| *expires > now);
        if expires <= now || self.answered.contains_key(&request.challenge) {
            return Err(Refusal::Stale);
        }
        let SealedRequest { challenge, nonce, sealed } = request;
        for (secret, _) in keyring.held() {
            let (secret, cluster) = (secret.clone(), cluster.to_owned());
            let (challenge, nonce) = (challenge.clone(), nonce.clone());
            let conversation = Conversation { secret, cluster, challenge, nonce };
            if let Some(operation) = conversation.open(Direction::Request, &sealed) {
                if self.answered.len() >= ANSWERED_MAX {
                    return Err(Refusal::Busy);
                }
                self.answered.insert(conversation.challenge.clone(), expires);
                return Ok((operation, conversation));
            }
        }
        Err(Refusal::WrongSecret)
    }

    /// When this node gave a challenge out; `None` if it did not.
    fn issued(&self, challenge: &str) -> Option<Duration> {
        let bytes = unhex(challenge)?;
        let (stamp, code) = bytes.split_at_checked(STAMP_LEN)?;
        hmac::verify(&self.key, stamp, code).ok()?;
        Some(Duration::from_millis(u64::from_be_bytes(*stamp.first_chunk()?)))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads lower-case hex; there is no other spelling.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |character: u8| match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
    if rest.is_empty() { bytes } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(100);

    fn secret(number: u8) -> Secret {
        Secret::new([number; 32])
    }

    fn keyring() -> Keyring {
        let mut keyring = Keyring::new(secret(1));
        keyring.install(secret(2)).unwrap();
        keyring
    }

    fn talk(challenges: &Challenges, number: u8) -> Conversation {
        let offer = Offer { challenge: challenges.offer(START, [number; 8]), cluster: "c".to_owned() };
        Conversation::new(offer, secret(number), [7; 16])
    }

    fn install() -> Operation {
        Operation::Install { key: secret(3) }
    }

    #[test]
    fn whoever_knows_a_held_secret_is_understood_and_understands_the_answer() {
        let mut challenges = Challenges::new(&[9; 32]);
        for number in [1, 2] {
            let tool = talk(&challenges, number);
            let request = tool.request(&install()).unwrap();
            assert!(!String::from_utf8_lossy(&request).contains(&secret(3).reveal()));
            let (operation, node) = challenges.open(START, "c", &keyring(), &request).ok().unwrap();
            assert_eq!(operation, install());
            let report = Report { refused: None, nodes: Vec::new(), down: 3 };
            let answer = serde_json::to_vec(&node.answer(&report).unwrap()).unwrap();
            assert_eq!(tool.report(&answer), Some(report));
            assert_eq!(talk(&challenges, 3).report(&answer), None);
            assert_eq!(tool.report(&request), None, "a request is no answer");
        }
    }

    #[test]
    fn nothing_counts_twice_or_late_or_elsewhere() {
        let mut challenges = Challenges::new(&[9; 32]);
        let open = |challenges: &mut Challenges, now, cluster, request: &[u8]| {
            challenges.open(now, cluster, &keyring(), request).map(|(operation, _)| operation)
        };
        let request = talk(&challenges, 1).request(&install()).unwrap();
        let late = START + CHALLENGE_AGE;
        assert_eq!(open(&mut challenges, late, "c", &request), Err(Refusal::Stale));
        assert_eq!(open(&mut challenges, START, "d", &request), Err(Refusal::WrongSecret));
        let stranger = talk(&challenges, 5).request(&install()).unwrap();
        assert_eq!(open(&mut challenges, START, "c", &stranger), Err(Refusal::WrongSecret));
        let mut another_node = Challenges::new(&[8; 32]);
        assert_eq!(open(&mut another_node, START, "c", &request), Err(Refusal::Stale));
        let soon = late - Duration::from_millis(1);
        assert_eq!(open(&mut challenges, soon, "c", &request), Ok(install()));
        assert_eq!(open(&mut challenges, soon, "c", &request), Err(Refusal::Stale), "a record played back");
        assert_eq!(challenges.answered.len(), 1);
        assert_eq!(open(&mut challenges, late, "c", &request), Err(Refusal::Stale));
        assert_eq!(challenges.answered.len(), 0, "those that have expired are forgotten");
    }

    #[test]
    fn no_character_of_a_request_can_be_changed() {
        let mut challenges = Challenges::new(&[9; 32]);
        let request = talk(&challenges, 1).request(&install()).unwrap();
        for place in 0..request.len() {
            let mut changed = request.clone();
            changed[place] = if changed[place] == b'0' { b'1' } else { b'0' };
            assert!(challenges.open(START, "c", &keyring(), &changed).is_err(), "{place}");
        }
        for bad in [&b""[..], b"{}", b"[]", &request[1..], br#"{"challenge":"","nonce":"","sealed":""}"#] {
            assert!(challenges.open(START, "c", &keyring(), bad).is_err());
        }
        assert!(challenges.open(START, "c", &keyring(), &request).is_ok());
    }

    #[test]
    fn what_was_answered_is_bounded() {
        let mut challenges = Challenges::new(&[9; 32]);
        for number in 0..=ANSWERED_MAX {
            let random = (number as u64).to_be_bytes();
            let offer = Offer { challenge: challenges.offer(START, random), cluster: "c".to_owned() };
            let request = Conversation::new(offer, secret(1), [0; 16]).request(&Operation::List).unwrap();
            let outcome = challenges.open(START, "c", &keyring(), &request).map(drop);
            assert_eq!(outcome, if number < ANSWERED_MAX { Ok(()) } else { Err(Refusal::Busy) });
        }
    }
}
