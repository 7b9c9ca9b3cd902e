//! The token that commands show to nodes which want one.

use std::path::Path;

use anyhow::{Context, bail};

/// Holds the token, for those who would rather not have a file.
const VARIABLE: &str = "BRUIT_TOKEN";
/// Longest token, bytes.
const TOKEN_MAX: u64 = 32 * 1024;

/// The token in `file`, or else in the environment.
///
/// # Errors
/// A sentence that says what to do, when there is no usable token where one is named.
pub(super) fn find(file: Option<&Path>) -> anyhow::Result<Option<String>> {
    let token = match file {
        Some(path) => Some(read(path)?),
        None => match std::env::var(VARIABLE) {
            Ok(token) => Some(checked(&token, VARIABLE)?),
            Err(std::env::VarError::NotPresent) => None,
            Err(std::env::VarError::NotUnicode(_)) => bail!("{VARIABLE} is not UTF-8"),
        },
    };
    Ok(token.filter(|token| !token.is_empty()))
}

fn read(path: &Path) -> anyhow::Result<String> {
    let cannot = || format!("cannot read the token in {}", path.display());
    if std::fs::metadata(path).with_context(cannot)?.len() > TOKEN_MAX {
        bail!("{} is too long for a token; is it another file?", path.display());
    }
    let token = checked(&std::fs::read_to_string(path).with_context(cannot)?, &path.display().to_string())?;
    if token.is_empty() {
        bail!("{} holds no token", path.display());
    }
    Ok(token)
}

/// A token goes into a line of HTTP, so it has to stay in one.
fn checked(text: &str, place: &str) -> anyhow::Result<String> {
    let token = text.trim();
    if token.chars().any(char::is_control) {
        bail!("{place} should hold one token, in one line");
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_one_token_in_one_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let told = |content: &str| {
            std::fs::write(file.path(), content).unwrap();
            read(file.path()).map_err(|error| error.to_string())
        };
        assert_eq!(told(" s3cret \n").as_deref(), Ok("s3cret"));
        assert!(told("a\nb").unwrap_err().contains("in one line"));
        assert!(told("\n").unwrap_err().contains("holds no token"));
        assert!(told(&"x".repeat(40_000)).unwrap_err().contains("too long"));
        assert!(read(Path::new("/no/such/file")).unwrap_err().to_string().contains("cannot read the token"));
    }
}
