//! Passwords, stored so that they appear neither in logs nor in freed memory.

use std::fmt;

use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A password. Its memory is wiped when it is dropped, and it is never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret(String);

impl Secret {
    /// The password itself, to hash it or to write it to a file that only root can read.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// The comparison takes the same time for any two passwords of the same length.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Secret {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_compared_and_never_printed() {
        let secret = Secret::from("hartslag");
        assert_eq!(secret, Secret::from("hartslag".to_owned()));
        assert_ne!(secret, Secret::from("hartslaG"));
        assert_ne!(secret, Secret::from(""));
        assert!(!format!("{secret:?}").contains("hartslag"));
    }
}
