//! Parses the bytes that a terminal sends for keys. Pure.

/// A key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Character(char),
    Enter,
    Escape,
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    /// Control with a letter.
    Control(char),
}

/// Bytes that do not form a complete key yet.
#[derive(Debug, Default)]
pub(super) struct Keys {
    pending: Vec<u8>,
}

const ESCAPE: u8 = 0x1b;
/// Maximum length of a key's sequence; longer ones are noise.
const LONGEST: usize = 16;

impl Keys {
    /// The keys that these bytes complete.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Vec<Key> {
        let mut keys = Vec::new();
        for byte in bytes {
            self.pending.push(*byte);
            match parse(&self.pending) {
                Parsed::More if self.pending.len() < LONGEST => {}
                Parsed::More | Parsed::Nothing => self.pending.clear(),
                Parsed::Key(key) => {
                    self.pending.clear();
                    keys.push(key);
                }
            }
        }
        keys
    }

    /// Whether an incomplete sequence is pending: an escape may be its beginning, or the key itself.
    pub(super) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Ends a pending sequence when no bytes follow.
    pub(super) fn give_up(&mut self) -> Option<Key> {
        let alone = self.pending == [ESCAPE];
        self.pending.clear();
        alone.then_some(Key::Escape)
    }
}

enum Parsed {
    Key(Key),
    /// It is incomplete.
    More,
    /// It is no known key.
    Nothing,
}

/// ECMA-48: CSI is ESC `[`, parameters, intermediates, and a final byte from `@` on. SS3 is ESC `O` and one
/// byte; terminals send it in application mode.
fn parse(bytes: &[u8]) -> Parsed {
    match bytes {
        [ESCAPE] | [ESCAPE, b'[' | b'O'] => Parsed::More,
        [ESCAPE, b'[', between @ .., last] | [ESCAPE, b'O', between @ .., last] => {
            match (between, last) {
                (_, 0x20..=0x3f) => Parsed::More,
                ([], b'A') => Parsed::Key(Key::Up),
                ([], b'B') => Parsed::Key(Key::Down),
                ([], b'H') | (b"1" | b"7", b'~') => Parsed::Key(Key::Home),
                ([], b'F') | (b"4" | b"8", b'~') => Parsed::Key(Key::End),
                (b"5", b'~') => Parsed::Key(Key::PageUp),
                (b"6", b'~') => Parsed::Key(Key::PageDown),
                _ => Parsed::Nothing,
            }
        }
        [b'\r' | b'\n'] => Parsed::Key(Key::Enter),
        [byte @ 1..=26] => Parsed::Key(Key::Control(char::from(byte + b'a' - 1))),
        [byte @ 0x20..=0x7e] => Parsed::Key(Key::Character(char::from(*byte))),
        _ => Parsed::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_in_pieces_are_keys() {
        for (bytes, expected) in [
            (&b"q"[..], &[Key::Character('q')][..]),
            (b"\r", &[Key::Enter]),
            (b"\x03", &[Key::Control('c')]),
            (b"\x1b[A\x1bOB", &[Key::Up, Key::Down]),
            (b"\x1b[5~\x1b[6~", &[Key::PageUp, Key::PageDown]),
            (b"\x1b[1~\x1b[F", &[Key::Home, Key::End]),
            (b"\x1b[1;5Aj", &[Key::Character('j')]),
            ("é日j".as_bytes(), &[Key::Character('j')]),
            (b"\x00\x7fj", &[Key::Character('j')]),
        ] {
            let mut keys = Keys::default();
            assert_eq!(keys.take(bytes), expected, "{bytes:?} at once");
            let found: Vec<Key> = bytes.iter().flat_map(|byte| keys.take(&[*byte])).collect();
            assert_eq!(found, expected, "{bytes:?} in pieces");
            assert!(!keys.is_pending(), "{bytes:?}");
        }
    }

    #[test]
    fn escape_alone_is_known_by_what_does_not_follow() {
        let mut keys = Keys::default();
        assert_eq!(keys.take(b"\x1b"), []);
        assert!(keys.is_pending());
        assert_eq!(keys.give_up(), Some(Key::Escape));
        assert_eq!(keys.take(b"\x1b["), []);
        assert_eq!(keys.give_up(), None);
        assert_eq!(keys.take(b"j"), [Key::Character('j')]);
    }

    #[test]
    fn noise_is_bounded() {
        let mut keys = Keys::default();
        let found = keys.take(&[&b"\x1b["[..], &[b'1'; 14], b"q"].concat());
        assert_eq!(found, [Key::Character('q')]);
    }
}
