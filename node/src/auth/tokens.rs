//! The file of tokens: what an authorisation server would say, without one.
//!
//! It is read again and again, and taken over when it has changed; with a mistake in it, what was there before
//! holds on. Secrets are found by a keyed digest, so that no comparison tells anything of them by the time it
//! takes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bruit_wire::auth::{Authorization, Grant, Pattern, Permission, Scope};
use bytes::Bytes;
use parking_lot::Mutex;
use ring::{digest, hmac};
use serde::{
    Deserialize, Deserializer,
    de::{self, SeqAccess, Visitor},
};

use super::AuthError;
use crate::{
    env::{Disk, Env, Open},
    exit::Exiting,
};

/// Longest file, bytes.
const FILE_MAX: u64 = 4 * 1024 * 1024;
/// Longest token, bytes.
const TOKEN_MAX: usize = 4096;
/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The tokens as they are known now.
pub(super) struct Tokens {
    path: PathBuf,
    /// Digests mean nothing outside of this process.
    key: hmac::Key,
    table: Mutex<Arc<Table>>,
    version: AtomicU64,
}

/// What each token allows, by its keyed digest.
type Table = BTreeMap<[u8; 32], Arc<Grant>>;

impl Tokens {
    /// Reads the file, and looks at it every second from then on.
    ///
    /// # Errors
    /// It cannot be read, or there is a mistake in it.
    pub(super) async fn open(path: PathBuf, env: &Env, exit: Exiting) -> Result<Arc<Self>, AuthError> {
        let mut random = [0; 32];
        env.entropy.fill(&mut random);
        let key = hmac::Key::new(hmac::HMAC_SHA256, &random);
        let cannot = |problem: String| AuthError::Tokens { path: path.clone(), problem };
        let content = read(&*env.disk, &path).await.map_err(|error| cannot(format!(": {error}")))?;
        let table = table(&key, &content).map_err(&cannot)?;
        let tokens = Self { path, key, table: Mutex::new(Arc::new(table)), version: AtomicU64::new(1) };
        let tokens = Arc::new(tokens);
        env.background.spawn(Box::pin(Arc::clone(&tokens).watch(env.clone(), content, exit)));
        Ok(tokens)
    }

    /// What `secret` allows, and the version of the file that says so.
    pub(super) fn look_up(&self, secret: &[u8]) -> (Option<Arc<Grant>>, u64) {
        let tag = tag(&self.key, digest::digest(&digest::SHA256, secret).as_ref());
        let table = self.table.lock();
        (table.get(&tag).cloned(), self.version())
    }

    /// How often the tokens have changed.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    async fn watch(self: Arc<Self>, env: Env, mut known: Bytes, exit: Exiting) {
        let mut said = None;
        loop {
            tokio::select! {
                biased;
                () = exit.told() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let problem = match read(&*env.disk, &self.path).await {
                Ok(content) if content == known => None,
                Ok(content) => match table(&self.key, &content) {
                    Ok(table) => {
                        tracing::info!(path = %self.path.display(), tokens = table.len(), "the tokens have changed");
                        self.replace(table);
                        known = content;
                        None
                    }
                    Err(problem) => Some(problem),
                },
                Err(error) => Some(format!(": {error}")),
            };
            // Each is said once, not every second.
            if let Some(problem) = problem.as_ref().filter(|problem| said.as_ref() != Some(*problem)) {
                tracing::error!("{}{problem}; the tokens that were read before hold on", self.path.display());
            }
            said = problem;
        }
    }

    fn replace(&self, table: Table) {
        let mut current = self.table.lock();
        *current = Arc::new(table);
        self.version.fetch_add(1, Ordering::Release);
    }
}

async fn read(disk: &dyn Disk, path: &Path) -> io::Result<Bytes> {
    let file = disk.open(path, Open::Read).await?;
    let size = file.size().await?;
    if size > FILE_MAX {
        return Err(io::Error::other(format!("it has {size} bytes, and {FILE_MAX} are the most")));
    }
    file.read_at(0, FILE_MAX as usize).await
}

/// The tokens of a file's content; a mistake begins with where it is.
fn table(key: &hmac::Key, content: &[u8]) -> Result<Table, String> {
    let mut table = Table::new();
    for entry in parse(content)?.tokens {
        table.insert(tag(key, &entry.digest), Arc::new(entry.grant));
    }
    Ok(table)
}

/// TOML, or JSON if it begins as JSON does.
fn parse(content: &[u8]) -> Result<File, String> {
    let text = std::str::from_utf8(content).map_err(|error| {
        let line = content[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        format!(":{line}: this is not UTF-8")
    })?;
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).map_err(|error| {
            let message = error.to_string();
            let message = message.split(" at line ").next().unwrap_or_default();
            format!(":{}: {message}", error.line())
        });
    }
    parse_toml(text).map_err(|(offset, message)| {
        let line = text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1;
        format!(":{line}: {}", message.trim_end())
    })
}

/// A mistake comes with where it begins.
fn parse_toml(text: &str) -> Result<File, (usize, String)> {
    let file: TomlFile = toml::from_str(text)
        .map_err(|error| (error.span().map_or(0, |span| span.start), error.message().to_owned()))?;
    let mut tokens = Vec::with_capacity(file.tokens.len());
    let mut seen = BTreeSet::new();
    for written in file.tokens {
        let start = written.span().start;
        let entry = Entry::try_from(written.into_inner()).map_err(|message| (start, message))?;
        if !seen.insert(entry.digest) {
            return Err((start, same(tokens.len(), &entry)));
        }
        tokens.push(entry);
    }
    Ok(File { tokens })
}

fn same(index: usize, entry: &Entry) -> String {
    format!("token {} ({:?}) is the same as one before it", index + 1, entry.grant.identity)
}

fn tag(key: &hmac::Key, digest: &[u8]) -> [u8; 32] {
    let mut tag = [0; 32];
    tag.copy_from_slice(hmac::sign(key, digest).as_ref());
    tag
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default, deserialize_with = "different")]
    tokens: Vec<Entry>,
}

/// As [`File`], with the place of each token, which TOML's errors would not tell.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TomlFile {
    #[serde(default)]
    tokens: Vec<toml::Spanned<Written>>,
}

/// A token and what it allows.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Written")]
struct Entry {
    /// SHA-256 of the token.
    digest: [u8; 32],
    grant: Grant,
}

/// A token as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    token: Option<String>,
    sha256: Option<String>,
    #[serde(default)]
    identity: String,
    #[serde(default)]
    identity_url: String,
    #[serde(default)]
    authorizations: Vec<Allowed>,
    #[serde(default)]
    scopes: Vec<Scope>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Allowed {
    topic: Pattern,
    /// All, when none are named.
    channels: Option<Vec<Pattern>>,
    permissions: Vec<Permission>,
}

impl TryFrom<Written> for Entry {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written { token, sha256, identity, identity_url, authorizations, scopes } = written;
        let mut digest = [0; 32];
        match (token, sha256) {
            (Some(token), None) if (1..=TOKEN_MAX).contains(&token.len()) => {
                digest.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
            }
            (Some(_), None) => return Err(format!("a token has from 1 to {TOKEN_MAX} bytes")),
            (None, Some(hexadecimal)) => digest = from_hex(&hexadecimal)?,
            _ => return Err("this needs either token or sha256".to_owned()),
        }
        let all = Pattern::new("").map_err(|error| error.to_string())?;
        let allowed = authorizations.into_iter().map(|Allowed { topic, channels, permissions }| {
            Authorization::new(topic, channels.unwrap_or_else(|| vec![all.clone()]), &permissions)
        });
        let authorizations = allowed.collect();
        let grant = Grant { identity, identity_url, ttl: Duration::MAX, authorizations, scopes };
        Ok(Self { digest, grant })
    }
}

fn from_hex(text: &str) -> Result<[u8; 32], String> {
    let wrong = || "sha256 has 64 hexadecimal digits, as sha256sum prints them".to_owned();
    let digits: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len() == 64).ok_or_else(wrong)?;
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair.iter().fold(0, |value, digit| value << 4 | *digit as u8);
    }
    Ok(bytes)
}

/// The tokens, none of which may be there twice: which of the two would hold?
fn different<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Entry>, D::Error> {
    struct Different;
    impl<'de> Visitor<'de> for Different {
        type Value = Vec<Entry>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of tokens")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<Entry>, A::Error> {
            let (mut entries, mut seen) = (Vec::new(), BTreeSet::new());
            while let Some(entry) = list.next_element::<Entry>()? {
                if !seen.insert(entry.digest) {
                    return Err(de::Error::custom(same(entries.len(), &entry)));
                }
                entries.push(entry);
            }
            Ok(entries)
        }
    }
    deserializer.deserialize_seq(Different)
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOML: &str = r#"
[[tokens]]
token = "s3cret"
identity = "orders"
scopes = ["read"]
[[tokens.authorizations]]
topic = "^orders$"
channels = ["^billing$"]
permissions = ["subscribe"]
[[tokens.authorizations]]
topic = "^orders$"
permissions = ["publish"]

[[tokens]]
# printf %s other | sha256sum
sha256 = "d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa"
identity = "all"
scopes = ["admin"]
"#;

    fn key() -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, b"key")
    }

    fn grant(table: &Table, secret: &str) -> Option<Arc<Grant>> {
        let digest = digest::digest(&digest::SHA256, secret.as_bytes());
        table.get(&tag(&key(), digest.as_ref())).cloned()
    }

    fn problem(content: &str) -> String {
        parse(content.as_bytes()).unwrap_err()
    }

    #[test]
    fn tokens_allow_what_is_written() {
        let table = table(&key(), TOML.as_bytes()).unwrap();
        let orders = grant(&table, "s3cret").unwrap();
        assert_eq!(orders.identity, "orders");
        assert!(orders.may_subscribe("orders", "billing") && !orders.may_subscribe("orders", "x"));
        assert!(orders.may_publish("orders") && !orders.may_publish("other"));
        assert!(orders.may(Scope::Read) && !orders.may(Scope::Admin));
        assert!(grant(&table, "other").unwrap().may(Scope::Admin));
        assert!(grant(&table, "").is_none() && grant(&table, "s3cre").is_none());
    }

    #[test]
    fn json_of_the_same_shape_is_the_same() {
        let json = r#"{"tokens": [{"token": "t", "identity": "me",
            "authorizations": [{"topic": "a", "channels": [".*"], "permissions": ["publish", "subscribe"]}]}]}"#;
        let table = table(&key(), json.as_bytes()).unwrap();
        assert!(grant(&table, "t").unwrap().may_publish("a"));
    }

    #[test]
    fn a_file_of_nothing_lets_nobody_in() {
        assert_eq!(table(&key(), b"").unwrap().len(), 0);
        assert_eq!(table(&key(), b"{}").unwrap().len(), 0);
    }

    #[test]
    fn a_mistake_is_told_with_its_line() {
        for (content, expected) in [
            ("\n[[tokens]]\ntoken = \"a\nidentity = \"x\"\n", ":3:"),
            (
                "[[tokens]]\ntoken = \"a\"\n[[tokens.authorizations]]\ntopic = \"(\"\npermissions = []\n",
                ":4: \"(\" is no",
            ),
            (
                "[[tokens]]\ntoken = \"a\"\n[[tokens.authorizations]]\ntopic = \"\"\npermissions = [\"read\"]\n",
                ":5: unknown variant",
            ),
            ("[[tokens]]\ntoken = \"a\"\nscope = [\"read\"]\n", ":3: unknown field `scope`"),
            (
                "[[tokens]]\ntoken = \"a\"\n\n[[tokens]]\nidentity = \"x\"\n",
                ":4: this needs either token or sha256",
            ),
            ("[[tokens]]\nsha256 = \"abc\"\n", ":1: sha256 has 64"),
            ("[[tokens]]\ntoken = \"\"\n", ":1: a token has from 1"),
            ("[[token]]\ntoken = \"a\"\n", ":1: unknown field `token`"),
            ("{\"tokens\": [\n{\"token\": \"a\",\n\"x\": 1}]}", ":3: unknown field `x`"),
            (
                "{\"tokens\": [\n{\"token\": \"a\", \"authorizations\": [\n{\"topic\": \"[\"}]}]}",
                ":3: \"[\" is no",
            ),
            ("{\"tokens\": [\n{\"token\": \"a\"},\n{\"token\": \"a\"}]}", ":3: token 2 (\"\") is the same"),
            ("{\"tokens\": 1}", ":1: invalid type"),
        ] {
            let problem = problem(content);
            assert!(problem.starts_with(expected), "{content}\n{problem}");
        }
        let twice = problem("[[tokens]]\ntoken = \"a\"\n[[tokens]]\ntoken = \"a\"\nidentity = \"x\"\n");
        assert_eq!(twice, ":3: token 2 (\"x\") is the same as one before it");
        assert!(parse(b"a\n\xff").unwrap_err().starts_with(":2: this is not UTF-8"));
    }
}
