//! The configuration of libxdp's dispatcher: an XDP program that runs the programs of several owners, one after the other
//! (libxdp's `protocol.org`; versions 2 and 3 of the dispatcher).

/// The number of programs that a dispatcher can run.
pub const CAPACITY: usize = 10;

/// The name of the dispatcher, and of its function that a single program replaces.
pub const DISPATCHER: &str = "xdp_dispatcher";

const MAGIC: u8 = 236;
/// Length of the configuration in bytes, by version. The compiler pads that of version 3.
const LENGTHS: [(u8, usize); 2] = [(2, 124), (3, 128)];
const COUNT: usize = 2;
const FRAGMENTS: usize = 3;
const ACTIONS: usize = 4;
const PRIORITIES: usize = ACTIONS + 4 * CAPACITY;
const FLAGS: usize = PRIORITIES + 4 * CAPACITY;
const DEVICE_BOUND: usize = FLAGS + 4 * CAPACITY;

/// `XDP_PASS`.
const PASS: u32 = 2;
/// What an unused function of the dispatcher returns.
const UNUSED: u32 = 31;

/// The settings of one of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Programs with lower numbers run first.
    pub priority: u32,
    /// A bit for each return value after which the next program runs.
    pub actions: u32,
    /// Flags that the program was loaded with.
    pub flags: u32,
}

impl Settings {
    /// Those of a program that declares none.
    pub const DEFAULT: Self = Self {
        priority: 50,
        actions: 1 << PASS | 1 << UNUSED,
        flags: 0,
    };
}

/// A dispatcher that cannot be joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotJoinable {
    /// Its configuration is unknown.
    #[error("its version is not 2 or 3")]
    Version,
    /// All its programs take frames that consist of several parts; ours does not.
    #[error("its programs are for frames of several parts, and this one is not")]
    Fragments,
    /// It is bound to one network card.
    #[error("it is bound to a network card")]
    DeviceBound,
    /// There is no place left.
    #[error("it runs {CAPACITY} programs already")]
    Full,
}

/// The configuration of a dispatcher, as it is in its map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration(Vec<u8>);

impl Configuration {
    /// Reads a configuration.
    pub fn read(bytes: &[u8]) -> Result<Self, NotJoinable> {
        let is_known =
            |(version, length)| bytes.len() == length && bytes.starts_with(&[MAGIC, version]);
        if !LENGTHS.into_iter().any(is_known) || usize::from(bytes[COUNT]) > CAPACITY {
            return Err(NotJoinable::Version);
        }
        if bytes[FRAGMENTS] != 0 {
            return Err(NotJoinable::Fragments);
        }
        if bytes.get(DEVICE_BOUND).is_some_and(|bound| *bound != 0) {
            return Err(NotJoinable::DeviceBound);
        }
        Ok(Self(bytes.to_vec()))
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The settings of its programs, in the order in which they run.
    #[must_use]
    pub fn programs(&self) -> Vec<Settings> {
        let count = usize::from(self.0[COUNT]);
        let programs = (0..count).map(|at| Settings {
            priority: self.word(PRIORITIES, at),
            actions: self.word(ACTIONS, at),
            flags: self.word(FLAGS, at),
        });
        programs.collect()
    }

    /// The same for other programs.
    pub fn with_programs(&self, programs: &[Settings]) -> Result<Self, NotJoinable> {
        let count = u8::try_from(programs.len()).unwrap_or(u8::MAX);
        if programs.len() > CAPACITY {
            return Err(NotJoinable::Full);
        }
        let mut other = self.clone();
        other.0[COUNT] = count;
        other.0[ACTIONS..DEVICE_BOUND].fill(0);
        for (at, settings) in programs.iter().enumerate() {
            for (field, value) in [
                (ACTIONS, settings.actions),
                (PRIORITIES, settings.priority),
                (FLAGS, settings.flags),
            ] {
                let start = field + 4 * at;
                other.0[start..start + 4].copy_from_slice(&value.to_ne_bytes());
            }
        }
        Ok(other)
    }

    fn word(&self, field: usize, at: usize) -> u32 {
        let bytes = self.0[field..].as_chunks().0.get(at);
        bytes.map_or(0, |bytes| u32::from_ne_bytes(*bytes))
    }
}

/// The function of the dispatcher that the program at this position replaces, one of `count`.
#[must_use]
pub fn function(position: usize, count: usize) -> String {
    if count == 1 {
        DISPATCHER.to_owned()
    } else {
        format!("prog{position}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(version: u8, length: usize, programs: &[(u32, u32, u32)]) -> Vec<u8> {
        let mut bytes = vec![0; length];
        bytes[..3].copy_from_slice(&[236, version, u8::try_from(programs.len()).unwrap()]);
        for (at, (actions, priority, flags)) in programs.iter().enumerate() {
            for (field, value) in [(4, actions), (44, priority), (84, flags)] {
                bytes[field + 4 * at..][..4].copy_from_slice(&value.to_ne_bytes());
            }
        }
        bytes
    }

    #[test]
    fn programs_are_read_and_replaced() {
        for (version, length) in [(2, 124), (3, 128)] {
            let two = bytes(version, length, &[(5, 10, 0), (6, 50, 32)]);
            let read = Configuration::read(&two).unwrap();
            let settings = |actions, priority, flags| Settings {
                priority,
                actions,
                flags,
            };
            assert_eq!(read.programs(), [settings(5, 10, 0), settings(6, 50, 32)]);
            let ours = Settings::DEFAULT;
            assert_eq!(ours.actions, 0x8000_0004);
            let three = read
                .with_programs(&[settings(5, 10, 0), ours, settings(6, 50, 32)])
                .unwrap();
            assert_eq!(
                three.bytes(),
                bytes(
                    version,
                    length,
                    &[(5, 10, 0), (0x8000_0004, 50, 0), (6, 50, 32)]
                )
            );
            let one = three.with_programs(&[settings(6, 50, 32)]).unwrap();
            assert_eq!(one.bytes(), bytes(version, length, &[(6, 50, 32)]));
            assert_eq!(read.with_programs(&[ours; 11]), Err(NotJoinable::Full));
            assert_eq!(
                read.with_programs(&[ours; 10]).unwrap().programs(),
                [ours; 10]
            );
        }
    }

    #[test]
    fn others_are_refused() {
        let change = |at: usize, value| {
            let mut bytes = bytes(3, 128, &[(5, 10, 0)]);
            bytes[at] = value;
            Configuration::read(&bytes).unwrap_err()
        };
        for (at, value, expected) in [
            (0, 0, NotJoinable::Version),
            (1, 2, NotJoinable::Version),
            (1, 4, NotJoinable::Version),
            (2, 11, NotJoinable::Version),
            (3, 1, NotJoinable::Fragments),
            (124, 1, NotJoinable::DeviceBound),
        ] {
            assert_eq!(change(at, value), expected, "{at} {value}");
        }
        for length in 0..124 {
            let bytes = &bytes(2, 124, &[])[..length];
            assert_eq!(Configuration::read(bytes), Err(NotJoinable::Version));
        }
    }

    #[test]
    fn a_single_program_replaces_the_whole_dispatcher() {
        assert_eq!(function(0, 1), "xdp_dispatcher");
        assert_eq!(function(0, 2), "prog0");
        assert_eq!(function(9, 10), "prog9");
    }
}
