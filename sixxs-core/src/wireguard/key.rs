//! Keys of WireGuard: 32 bytes, in files as Base64.

use std::{fmt, str::FromStr};

use base64ct::{Base64, Encoding as _};
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Length of a key, in bytes.
pub const KEY_BYTES: usize = 32;

/// Length of a key as text, in bytes.
const TEXT_BYTES: usize = 44;

/// The text is no key. The message does not repeat it, since it may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not 32 bytes in Base64 (44 characters, the last one is =)")]
pub struct BadKey;

/// The public key of a peer. `Display` and `Debug` give it as Base64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; KEY_BYTES]);

impl PublicKey {
    /// From its bytes.
    #[must_use]
    pub const fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl FromStr for PublicKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        decode(text).map(|bytes| Self(*bytes))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; TEXT_BYTES];
        let text = Base64::encode(&self.0, &mut text).map_err(|_| fmt::Error)?;
        f.write_str(text)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A private key or a preshared key. Its memory is wiped when it is dropped, and it is never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SecretKey([u8; KEY_BYTES]);

impl SecretKey {
    /// From its bytes. The kernel has a key of zeros where there is none: then the result is `None`.
    #[must_use]
    pub fn new(bytes: &[u8; KEY_BYTES]) -> Option<Self> {
        let is_empty: bool = bytes.ct_eq(&[0; KEY_BYTES]).into();
        (!is_empty).then(|| Self(*bytes))
    }

    /// As the private key of an interface. The kernel sets some bits of it (RFC 7748 §5, `decodeScalar25519`), and gives it
    /// back so; `wg genkey` does that already.
    #[must_use]
    pub fn clamped(mut self) -> Self {
        self.0[0] &= 248;
        self.0[KEY_BYTES - 1] = (self.0[KEY_BYTES - 1] & 127) | 64;
        self
    }

    /// The key itself, to pass it to the kernel.
    #[must_use]
    pub const fn expose(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl FromStr for SecretKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        Self::new(&*decode(text)?).ok_or(BadKey)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// The comparison takes the same time for any two keys.
impl PartialEq for SecretKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SecretKey {}

/// The time that this takes does not depend on the key.
fn decode(text: &str) -> Result<Zeroizing<[u8; KEY_BYTES]>, BadKey> {
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    let decoded = Base64::decode(text, &mut *bytes).map_err(|_| BadKey)?;
    match decoded.len() {
        KEY_BYTES => Ok(bytes),
        _ => Err(BadKey),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "6JE6zdqFNHGENX7+MQVWfqS7VmpKmjrYbKXpisHRElA=";

    #[test]
    fn a_private_key_is_as_the_kernel_gives_it_back() {
        let clamped = SecretKey([0xff; KEY_BYTES]).clamped();
        let mut expected = [0xff; KEY_BYTES];
        (expected[0], expected[KEY_BYTES - 1]) = (0xf8, 0x7f);
        assert_eq!(clamped.expose(), &expected);
        assert_eq!(clamped.clone().clamped(), clamped);
    }

    #[test]
    fn a_key_is_read_and_written_as_base64() {
        let key: PublicKey = TEXT.parse().unwrap();
        assert_eq!(key.bytes()[..3], [0xe8, 0x91, 0x3a]);
        assert_eq!(key.to_string(), TEXT);
        assert_eq!(format!("{key:?}"), TEXT);
        assert_eq!(PublicKey::new(*key.bytes()), key);
    }

    #[test]
    fn a_secret_is_compared_and_never_printed() {
        let key: SecretKey = TEXT.parse().unwrap();
        assert_eq!(Some(&key), SecretKey::new(key.expose()).as_ref());
        let other = TEXT.replacen('6', "7", 1).parse().unwrap();
        assert_ne!(key, other);
        assert_eq!(format!("{key:?}"), "(secret)");
        assert!(!BadKey.to_string().contains(TEXT));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let zeros = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        assert!(zeros.parse::<PublicKey>().is_ok());
        assert_eq!(zeros.parse::<SecretKey>(), Err(BadKey));
        for bad in [
            "",
            "=",
            "key",
            &TEXT[..43],
            &TEXT[1..],
            &format!("{TEXT}A"),
            &format!("{TEXT}="),
            &format!("AAAA{TEXT}"),
            &TEXT.replace('+', "-"),
            &TEXT.replace('A', " "),
            // The last bits before the padding are not zero.
            &TEXT.replace("lA=", "lB="),
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==",
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        ] {
            assert_eq!(bad.parse::<PublicKey>(), Err(BadKey), "{bad:?}");
            assert_eq!(bad.parse::<SecretKey>(), Err(BadKey), "{bad:?}");
        }
    }
}
