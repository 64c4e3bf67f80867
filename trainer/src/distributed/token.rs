//! The secret that a worker shares with those whom it works for.

use std::fmt;
use std::path::{Path, PathBuf};

#[cfg(feature = "remote")]
use sha2::{Digest, Sha256};

/// Where the token is looked for when no file is named.
pub const TOKEN_VARIABLE: &str = "ESPALIER_TOKEN";

/// Fewest characters. The worker's public key follows from the token, and whoever can
/// reach its port can see that key and try tokens at leisure: it has to be too long for
/// that.
const SHORTEST: usize = 32;
/// Most characters.
const LONGEST: usize = 1024;

/// 32 to 1,024 printable ASCII characters without spaces, known to a worker and to those
/// who use it. Not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// A file that cannot be read.
    #[error("{}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not a token.
    #[error(
        "{from} holds no token: it takes {SHORTEST} to {LONGEST} printable characters without spaces, as \
         `espalier worker` makes one when it is given none"
    )]
    Malformed {
        /// The file or the variable.
        from: String,
    },
}

impl Token {
    /// Checks the length and the characters; white space around it does not count.
    pub fn parse(text: &str, from: impl fmt::Display) -> Result<Self, TokenError> {
        let text = text.trim();
        let right = (SHORTEST..=LONGEST).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        match right {
            true => Ok(Self(text.to_owned())),
            false => Err(TokenError::Malformed {
                from: from.to_string(),
            }),
        }
    }

    /// The token in a file, or else in the environment variable [`TOKEN_VARIABLE`], where
    /// there is one.
    pub fn find(file: Option<&Path>) -> Result<Option<Self>, TokenError> {
        if let Some(file) = file {
            let text = std::fs::read_to_string(file).map_err(|source| TokenError::Read {
                file: file.to_owned(),
                source,
            })?;
            return Self::parse(&text, file.display()).map(Some);
        }
        let variable = std::env::var(TOKEN_VARIABLE).ok();
        let token = variable.map(|text| Self::parse(&text, format!("${TOKEN_VARIABLE}")));
        token.transpose()
    }

    /// 256 bits in hexadecimal digits.
    pub fn from_bits(bits: [u8; 32]) -> Self {
        Self(bits.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// As it is handed on.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The secret key of a worker that has it.
    #[cfg(feature = "remote")]
    pub(super) fn key(&self) -> [u8; 32] {
        self.hash("espalier worker key")
    }

    /// What a client shows the worker: no more than that it knows the token.
    #[cfg(feature = "remote")]
    pub(super) fn proof(&self) -> [u8; 32] {
        self.hash("espalier client proof")
    }

    #[cfg(feature = "remote")]
    fn hash(&self, purpose: &str) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(purpose);
        hash.update([0]);
        hash.update(&self.0);
        hash.finalize().into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_long_and_plain() {
        let text = "0123456789abcdef0123456789abcdef";
        let token = Token::parse(&format!(" {text}\n"), "it").unwrap();
        assert_eq!(token.text(), text);
        assert_eq!(format!("{token:?}"), "Token(..)");
        #[cfg(feature = "remote")]
        assert_ne!(token.key(), token.proof());
        for wrong in [
            &text[1..],
            "",
            &text.repeat(33),
            &text.replace('0', " "),
            &text.replace('0', "é"),
        ] {
            let error = Token::parse(wrong, "it").unwrap_err().to_string();
            assert!(error.starts_with("it holds no token"), "{error}");
        }
        assert_eq!(Token::from_bits([0xa5; 32]).text().len(), 64);
    }
}
