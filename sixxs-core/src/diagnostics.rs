//! Faults in files that users write. All faults of a file are reported at once, each with its line, its key
//! and a message.
//!
//! The parsers of these files use this module; it depends on none of their formats.

use std::fmt;

/// A position in a file; for a missing key, the position where its section begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// Line in the file, counted from 1.
    pub line: usize,
    /// Path of the key, such as `tunnel[2].mtu` (tunnels count from 1); empty for a syntax error.
    pub key: String,
}

/// One fault in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// [`Location::line`].
    pub line: usize,
    /// [`Location::key`].
    pub key: String,
    /// The fault, and the expected value.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            write!(f, "line {}: {}", self.line, self.message)
        } else {
            write!(f, "line {}: {}: {}", self.line, self.key, self.message)
        }
    }
}

/// A note about an entry in the file that has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The line, counted from 1.
    pub line: usize,
    /// The entry, and the reason.
    pub text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.text)
    }
}

/// Collects the faults of a file.
#[derive(Debug, Default)]
pub struct Diagnostics {
    found: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Adds a fault.
    pub fn add(&mut self, location: &Location, message: impl Into<String>) {
        self.found.push(Diagnostic {
            line: location.line,
            key: location.key.clone(),
            message: message.into(),
        });
    }

    /// Adds the faults of a part.
    pub fn extend(&mut self, part: Self) {
        self.found.extend(part.found);
    }

    /// Adds the faults of a part, and returns the part's value.
    pub fn absorb<T>(&mut self, (value, part): (T, Self)) -> T {
        self.extend(part);
        value
    }

    /// Returns the value if there is no fault, otherwise the faults, sorted by line.
    pub fn check<T>(mut self, file: &str, value: Option<T>) -> Result<T, Invalid> {
        match value {
            Some(value) if self.found.is_empty() => Ok(value),
            _ => {
                // The sort is stable: faults in the same line keep the order in which they were found.
                self.found.sort_by_key(|diagnostic| diagnostic.line);
                Err(Invalid {
                    file: file.to_owned(),
                    diagnostics: self.found,
                })
            }
        }
    }
}

/// The faults of a file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Invalid {
    /// The path of the file.
    pub file: String,
    /// The faults, sorted by line; at least one.
    pub diagnostics: Vec<Diagnostic>,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.diagnostics.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}: {diagnostic}", self.file)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: usize, key: &str) -> Location {
        Location {
            line,
            key: key.to_owned(),
        }
    }

    #[test]
    fn faults_are_shown_in_the_order_of_the_file() {
        let mut diagnostics = Diagnostics::default();
        diagnostics.add(&at(7, "mtu"), "third");
        diagnostics.add(&at(2, ""), "first");
        diagnostics.add(&at(2, "name"), "second");
        let invalid = diagnostics.check("f", Some(())).unwrap_err();
        let shown = "f: line 2: first\nf: line 2: name: second\nf: line 7: mtu: third";
        assert_eq!(invalid.to_string(), shown);
    }

    #[test]
    fn faults_of_a_part_are_faults_of_the_whole() {
        let mut part = Diagnostics::default();
        part.add(&at(1, "mtu"), "wrong");
        let mut whole = Diagnostics::default();
        assert_eq!(whole.absorb((5, part)), 5);
        assert!(whole.check("f", Some(())).is_err());
    }

    #[test]
    fn a_file_without_faults_has_its_value() {
        assert_eq!(Diagnostics::default().check("f", Some(5)), Ok(5));
    }
}
