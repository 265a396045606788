//! Reads the keys of a TOML table, and reports faults in their values with line and key.
//!
//! A [`Section`] collects its own diagnostics. Its reader takes all keys first, then calls
//! [`Section::finish`] and checks the values of the [`Field`]s.

use std::{
    collections::BTreeMap,
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    ops::{Range, RangeInclusive},
    str::FromStr,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::follows::OrAuto;
use crate::{
    diagnostics::{Diagnostics, Location},
    secret::Secret,
};

/// Converts offsets in a text to line numbers.
pub(super) struct Lines {
    ends: Vec<usize>,
}

impl Lines {
    pub(super) fn of(text: &str) -> Self {
        let ends = text.match_indices('\n').map(|(at, _)| at);
        Self {
            ends: ends.collect(),
        }
    }

    /// The line in which the span begins. Lines count from 1.
    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        1 + self.ends.partition_point(|end| *end < span.start)
    }
}

/// A value and its location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) location: Location,
}

/// The result of reading a key of a section.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Field<T> {
    /// A usable value.
    Set(Located<T>),
    /// No value. Diagnostics about the missing key use the location.
    Absent(Location),
    /// An unusable value. The section already has a diagnostic about it, so no other is needed.
    Invalid,
}

/// One value, or a table with more.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum OneOrTable<T, S> {
    /// A string that parses.
    One(T),
    /// A table.
    Table(S),
}

/// A field with a list of values.
pub(super) type List<T> = Field<Vec<Located<T>>>;

impl<T> Field<T> {
    pub(super) const fn as_set(&self) -> Option<&Located<T>> {
        match self {
            Self::Set(set) => Some(set),
            Self::Absent(_) | Self::Invalid => None,
        }
    }

    /// The location of the value, if the value is usable.
    pub(super) fn location(&self) -> Option<&Location> {
        self.as_set().map(|set| &set.location)
    }

    pub(super) fn value(self) -> Option<T> {
        match self {
            Self::Set(set) => Some(set.value),
            Self::Absent(_) | Self::Invalid => None,
        }
    }

    pub(super) const fn is_absent(&self) -> bool {
        matches!(self, Self::Absent(_))
    }

    pub(super) const fn is_invalid(&self) -> bool {
        matches!(self, Self::Invalid)
    }

    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Field<U> {
        match self {
            Self::Set(Located { value, location }) => Field::Set(Located {
                value: change(value),
                location,
            }),
            Self::Absent(location) => Field::Absent(location),
            Self::Invalid => Field::Invalid,
        }
    }

    /// This field if it is set, otherwise the other one.
    pub(super) fn or(self, other: Self) -> Self {
        match self {
            Self::Set(set) => Self::Set(set),
            Self::Absent(_) | Self::Invalid => other,
        }
    }

    /// Sets the line that diagnostics about a missing key name.
    pub(super) fn asked_for_at(self, line: usize) -> Self {
        match self {
            Self::Absent(location) => Self::Absent(Location { line, ..location }),
            other => other,
        }
    }

    /// The value; reports a missing one.
    pub(super) fn required(
        self,
        expected: &str,
        diagnostics: &mut Diagnostics,
    ) -> Option<Located<T>> {
        match self {
            Self::Set(set) => Some(set),
            Self::Absent(location) => {
                diagnostics.add(&location, format!("missing; expected {expected}"));
                None
            }
            Self::Invalid => None,
        }
    }
}

impl<T> List<T> {
    /// The usable values; empty if the key is absent or invalid.
    pub(super) fn items(&self) -> &[Located<T>] {
        self.as_set().map_or(&[], |list| &list.value)
    }

    /// The usable values, without their locations; `None` if the key is absent or invalid.
    pub(super) fn values(self) -> Option<Vec<T>> {
        let list = self.value()?;
        Some(list.into_iter().map(|item| item.value).collect())
    }
}

/// The beginning of a section.
#[derive(Clone, Debug)]
pub(super) struct SectionHeader {
    line: usize,
    prefix: String,
}

impl SectionHeader {
    pub(super) const fn of_file() -> Self {
        Self {
            line: 1,
            prefix: String::new(),
        }
    }

    /// The location for a missing key, or for a fault that concerns the whole section.
    pub(super) fn location(&self, key: &str) -> Location {
        self.location_in(self.line, key)
    }

    fn location_in(&self, line: usize, key: &str) -> Location {
        Location {
            line,
            key: format!("{}{key}", self.prefix),
        }
    }
}

/// A table. Each key can be taken once; the keys that remain at the end are unknown.
pub(super) struct Section<'a> {
    entries: BTreeMap<String, (usize, Spanned<DeValue<'a>>)>,
    head: SectionHeader,
    lines: &'a Lines,
    diagnostics: Diagnostics,
}

impl<'a> Section<'a> {
    pub(super) fn new(table: DeTable<'a>, head: SectionHeader, lines: &'a Lines) -> Self {
        let entries = table.into_iter().map(|(key, value)| {
            let line = lines.line(&key.span());
            (key.into_inner().into_owned(), (line, value))
        });
        Self {
            entries: entries.collect(),
            head,
            lines,
            diagnostics: Diagnostics::default(),
        }
    }

    pub(super) fn head(&self) -> SectionHeader {
        self.head.clone()
    }

    /// Reports a fault about a key, with the line of the section's beginning.
    pub(super) fn report(&mut self, key: &str, message: &str) {
        self.diagnostics.add(&self.head.location(key), message);
    }

    /// The remaining keys.
    pub(super) fn keys(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    /// All diagnostics of a section whose keys are names that the user chose.
    pub(super) fn diagnostics(self) -> Diagnostics {
        self.diagnostics
    }

    /// Reports the remaining keys as unknown. Returns all diagnostics of the section.
    pub(super) fn finish(mut self, known: &[&str]) -> Diagnostics {
        for (key, (line, _)) in self.entries {
            let message = format!("unknown key; expected one of {}", known.join(", "));
            self.diagnostics
                .add(&self.head.location_in(line, &key), message);
        }
        self.diagnostics
    }

    /// A string that parses as `T`. `expected` describes it in messages.
    pub(super) fn parsed<T: FromStr<Err: fmt::Display>>(
        &mut self,
        key: &str,
        expected: &str,
    ) -> Field<T> {
        self.field(key, |value| parse(&value, expected))
    }

    pub(super) fn ipv6(&mut self, key: &str) -> Field<Ipv6Addr> {
        let address = self.parsed::<Address>(key, "an IPv6 address");
        address.map(|Address(address)| address)
    }

    pub(super) fn ipv6_or_auto(&mut self, key: &str) -> Field<OrAuto<Ipv6Addr>> {
        let address = self.parsed::<OrAuto<Address>>(key, "an IPv6 address or \"auto\"");
        address.map(|address| match address {
            OrAuto::Auto => OrAuto::Auto,
            OrAuto::Is(Address(address)) => OrAuto::Is(address),
        })
    }

    /// A string that is never part of a message.
    pub(super) fn secret(&mut self, key: &str) -> Field<Secret> {
        self.field(key, |value| match value {
            DeValue::String(text) => Ok(Secret::from(text.as_ref())),
            _ => Err("expected a string; put the password in quotes".to_owned()),
        })
    }

    pub(super) fn strings(&mut self, key: &str, expected: &str) -> Field<Vec<String>> {
        self.field(key, |value| {
            let DeValue::Array(values) = value else {
                return Err(format!("expected {expected}, found {}", describe(&value)));
            };
            let string = |value: Spanned<DeValue<'_>>| match value.into_inner() {
                DeValue::String(text) => Ok(text.into_owned()),
                other => Err(format!(
                    "expected {expected}, found {} in it",
                    describe(&other)
                )),
            };
            values.into_iter().map(string).collect()
        })
    }

    /// An integer within `range`.
    pub(super) fn integer(&mut self, key: &str, range: RangeInclusive<u32>) -> Field<u32> {
        self.field(key, |value| {
            if let DeValue::Integer(integer) = &value
                && let Ok(number) = i64::from_str_radix(integer.as_str(), integer.radix())
                && let Ok(number) = u32::try_from(number)
                && range.contains(&number)
            {
                return Ok(number);
            }
            let (least, most) = (range.start(), range.end());
            let found = describe(&value);
            Err(format!(
                "expected an integer from {least} to {most}, found {found}"
            ))
        })
    }

    pub(super) fn boolean(&mut self, key: &str) -> Field<bool> {
        self.field(key, |value| match value {
            DeValue::Boolean(value) => Ok(value),
            other => Err(format!(
                "expected true or false, found {}",
                describe(&other)
            )),
        })
    }

    /// One string or a list of strings, each of which parses as `T`. Values that do not parse are reported
    /// and left out. A list in which no value parses is invalid.
    pub(super) fn one_or_many<T: FromStr<Err: fmt::Display>>(
        &mut self,
        key: &str,
        expected: &str,
    ) -> List<T> {
        let Field::Set(Located { value, location }) = self.field(key, Ok) else {
            return Field::Absent(self.head.location(key));
        };
        let values = match value {
            DeValue::Array(values) => {
                let located = |value: Spanned<DeValue<'a>>| Located {
                    location: Location {
                        line: self.lines.line(&value.span()),
                        key: location.key.clone(),
                    },
                    value: value.into_inner(),
                };
                values.into_iter().map(located).collect()
            }
            value => vec![Located {
                value,
                location: location.clone(),
            }],
        };
        let (mut items, mut is_invalid) = (Vec::new(), false);
        for Located { value, location } in values {
            match parse(&value, expected) {
                Ok(value) => items.push(Located { value, location }),
                Err(message) => {
                    self.diagnostics.add(&location, message);
                    is_invalid = true;
                }
            }
        }
        if is_invalid && items.is_empty() {
            return Field::Invalid;
        }
        Field::Set(Located {
            value: items,
            location,
        })
    }

    /// A table (`[key]`).
    pub(super) fn section(&mut self, key: &str) -> Field<Self> {
        let table = self.field(key, |value| match value {
            DeValue::Table(table) => Ok(table),
            other => Err(format!(
                "expected a [{key}] table, found {}",
                describe(&other)
            )),
        });
        match table {
            Field::Set(Located { value, location }) => Field::Set(Located {
                value: self.inner(value, &location),
                location,
            }),
            Field::Absent(location) => Field::Absent(location),
            Field::Invalid => Field::Invalid,
        }
    }

    /// A string that parses as `T`, or a table (`[key]`).
    pub(super) fn parsed_or_section<T: FromStr<Err: fmt::Display>>(
        &mut self,
        key: &str,
        expected: &str,
    ) -> Field<OneOrTable<T, Self>> {
        let read = self.field(key, |value| match value {
            DeValue::Table(table) => Ok(OneOrTable::Table(table)),
            other => parse(&other, &format!("{expected}, or a table")).map(OneOrTable::One),
        });
        match read {
            Field::Set(Located { value, location }) => Field::Set(Located {
                value: match value {
                    OneOrTable::One(one) => OneOrTable::One(one),
                    OneOrTable::Table(table) => OneOrTable::Table(self.inner(table, &location)),
                },
                location,
            }),
            Field::Absent(location) => Field::Absent(location),
            Field::Invalid => Field::Invalid,
        }
    }

    /// The line where it begins.
    pub(super) const fn line(&self) -> usize {
        self.head.line
    }

    /// The tables of an array of tables (`[[key]]`).
    pub(super) fn sections(&mut self, key: &str) -> Vec<Self> {
        let values = self.field(key, |value| match value {
            DeValue::Array(values) => Ok(values),
            other => Err(format!(
                "expected [[{key}]] tables, found {}",
                describe(&other)
            )),
        });
        let mut sections = Vec::new();
        for (index, value) in values.value().into_iter().flatten().enumerate() {
            let location = Location {
                line: self.lines.line(&value.span()),
                key: format!("{}{key}[{}]", self.head.prefix, index + 1),
            };
            match value.into_inner() {
                DeValue::Table(table) => sections.push(self.inner(table, &location)),
                other => {
                    let message = format!("expected a table, found {}", describe(&other));
                    self.diagnostics.add(&location, message);
                }
            }
        }
        sections
    }

    fn inner(&self, table: DeTable<'a>, location: &Location) -> Self {
        let head = SectionHeader {
            line: location.line,
            prefix: format!("{}.", location.key),
        };
        Self::new(table, head, self.lines)
    }

    /// Takes a key. `read` returns the value, or a message about the fault in it.
    fn field<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(DeValue<'a>) -> Result<T, String>,
    ) -> Field<T> {
        let Some((line, value)) = self.entries.remove(key) else {
            return Field::Absent(self.head.location(key));
        };
        let location = self.head.location_in(line, key);
        match read(value.into_inner()) {
            Ok(value) => Field::Set(Located { value, location }),
            Err(message) => {
                self.diagnostics.add(&location, message);
                Field::Invalid
            }
        }
    }
}

struct Address(Ipv6Addr);

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let no_address = |_| match text.parse::<Ipv4Addr>() {
            Ok(_) => "that is IPv4",
            Err(_) => "no IPv6 address",
        };
        text.parse().map(Self).map_err(no_address)
    }
}

fn parse<T: FromStr<Err: fmt::Display>>(value: &DeValue<'_>, expected: &str) -> Result<T, String> {
    let DeValue::String(text) = value else {
        return Err(format!("expected {expected}, found {}", describe(value)));
    };
    text.parse()
        .map_err(|error| format!("expected {expected}, found {text:?}: {error}"))
}

/// A value for a message. A long string may be a secret in the wrong place, so it is not part of the message.
fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) if text.chars().count() <= 40 => format!("{text:?}"),
        DeValue::String(_) => "a long string".to_owned(),
        DeValue::Integer(integer) => integer.to_string(),
        DeValue::Float(float) => float.to_string(),
        DeValue::Boolean(boolean) => boolean.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
