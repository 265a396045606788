//! Reads values out of a TOML table and says precisely what is wrong with those that are wrong.

use std::{
    collections::BTreeMap,
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    ops::Range,
    str::FromStr,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{
    diagnostics::{Diagnostics, Location},
    secret::Secret,
};

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) place: Location,
}

/// Collects faults, so that one run names them all.
pub(super) struct Faults {
    /// Where lines end.
    ends: Vec<usize>,
    found: Diagnostics,
}

impl Faults {
    pub(super) fn new(text: &str) -> Self {
        let ends = text.match_indices('\n').map(|(at, _)| at);
        Self {
            ends: ends.collect(),
            found: Diagnostics::default(),
        }
    }

    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        1 + self.ends.partition_point(|end| *end < span.start)
    }

    pub(super) fn add(&mut self, place: &Location, message: impl Into<String>) {
        self.found.add(place, message);
    }

    /// Whether something was said about this key already.
    pub(super) fn has(&self, key: &str) -> bool {
        self.found.names(key)
    }

    pub(super) fn into_diagnostics(self) -> Diagnostics {
        self.found
    }
}

/// A table being read: each key is taken once; what is left at the end is unknown.
pub(super) struct Section<'i> {
    entries: BTreeMap<String, (usize, Spanned<DeValue<'i>>)>,
    prefix: String,
    line: usize,
}

impl<'i> Section<'i> {
    pub(super) fn new(table: DeTable<'i>, prefix: String, line: usize, faults: &Faults) -> Self {
        let entries = table
            .into_iter()
            .map(|(key, value)| {
                let line = faults.line(&key.span());
                (key.into_inner().into_owned(), (line, value))
            })
            .collect();
        Self {
            entries,
            prefix,
            line,
        }
    }

    /// The place of a key that is not there.
    pub(super) fn place(&self, key: &str) -> Location {
        Location {
            line: self.line,
            key: format!("{}{key}", self.prefix),
        }
    }

    fn take(&mut self, key: &str) -> Option<Located<DeValue<'i>>> {
        let (line, value) = self.entries.remove(key)?;
        Some(Located {
            place: Location {
                line,
                key: format!("{}{key}", self.prefix),
            },
            value: value.into_inner(),
        })
    }

    /// A string that parses as `T`; `expected` says what that is.
    pub(super) fn parsed<T: FromStr<Err: fmt::Display>>(
        &mut self,
        key: &str,
        expected: &str,
        faults: &mut Faults,
    ) -> Option<Located<T>> {
        let Located { value, place } = self.take(key)?;
        let value = parse_value(&value, &place, expected, faults)?;
        Some(Located { value, place })
    }

    /// An IPv6 address.
    pub(super) fn ipv6(&mut self, key: &str, faults: &mut Faults) -> Option<Located<Ipv6Addr>> {
        let Located { value, place } = self.parsed::<Address>(key, "an IPv6 address", faults)?;
        Some(Located {
            value: value.0,
            place,
        })
    }

    /// A string that is not to be shown, whatever is wrong with it.
    pub(super) fn secret(&mut self, key: &str, faults: &mut Faults) -> Option<Located<Secret>> {
        let Located { value, place } = self.take(key)?;
        if let DeValue::String(text) = &value {
            let value = Secret::from(text.as_ref());
            return Some(Located { value, place });
        }
        faults.add(&place, "expected a string; put the password in quotes");
        None
    }

    /// One string or a list of them, each parsing as `T`. `None` where the key is missing.
    pub(super) fn one_or_many<T: FromStr<Err: fmt::Display>>(
        &mut self,
        key: &str,
        expected: &str,
        faults: &mut Faults,
    ) -> Option<Vec<Located<T>>> {
        let Located { value, place } = self.take(key)?;
        let values = match value {
            DeValue::Array(values) => values
                .into_iter()
                .map(|value| {
                    let place = Location {
                        line: faults.line(&value.span()),
                        key: place.key.clone(),
                    };
                    (value.into_inner(), place)
                })
                .collect(),
            other => vec![(other, place)],
        };
        Some(
            values
                .into_iter()
                .filter_map(|(value, place)| {
                    let value = parse_value(&value, &place, expected, faults)?;
                    Some(Located { value, place })
                })
                .collect(),
        )
    }

    /// A list of strings.
    pub(super) fn strings(
        &mut self,
        key: &str,
        expected: &str,
        faults: &mut Faults,
    ) -> Option<Located<Vec<String>>> {
        let Located { value, place } = self.take(key)?;
        let DeValue::Array(values) = value else {
            let message = format!("expected {expected}, found {}", describe(&value));
            faults.add(&place, message);
            return None;
        };
        let mut strings = Vec::new();
        for value in values {
            match value.get_ref() {
                DeValue::String(text) => strings.push(text.clone().into_owned()),
                other => {
                    let message = format!("expected {expected}, found {} in it", describe(other));
                    faults.add(&place, message);
                    return None;
                }
            }
        }
        Some(Located {
            value: strings,
            place,
        })
    }

    /// An integer of a range.
    pub(super) fn integer(
        &mut self,
        key: &str,
        range: std::ops::RangeInclusive<u32>,
        faults: &mut Faults,
    ) -> Option<Located<u32>> {
        let Located { value, place } = self.take(key)?;
        if let DeValue::Integer(integer) = &value
            && let Ok(number) = i64::from_str_radix(integer.as_str(), integer.radix())
            && let Ok(number) = u32::try_from(number)
            && range.contains(&number)
        {
            return Some(Located {
                value: number,
                place,
            });
        }
        let message = format!(
            "expected an integer from {} to {}, found {}",
            range.start(),
            range.end(),
            describe(&value)
        );
        faults.add(&place, message);
        None
    }

    /// A boolean.
    pub(super) fn boolean(&mut self, key: &str, faults: &mut Faults) -> Option<Located<bool>> {
        let Located { value, place } = self.take(key)?;
        if let DeValue::Boolean(value) = value {
            return Some(Located { value, place });
        }
        let message = format!("expected true or false, found {}", describe(&value));
        faults.add(&place, message);
        None
    }

    /// A table (`[key]`).
    pub(super) fn table(&mut self, key: &str, faults: &mut Faults) -> Option<Section<'i>> {
        let Located { value, place } = self.take(key)?;
        let DeValue::Table(table) = value else {
            let message = format!("expected a [{key}] table, found {}", describe(&value));
            faults.add(&place, message);
            return None;
        };
        let prefix = format!("{}.", place.key);
        Some(Section::new(table, prefix, place.line, faults))
    }

    /// The tables of an array of tables (`[[key]]`), each with the place of its head.
    pub(super) fn tables(&mut self, key: &str, faults: &mut Faults) -> Vec<Section<'i>> {
        let Some(Located { value, place }) = self.take(key) else {
            return Vec::new();
        };
        let DeValue::Array(values) = value else {
            let message = format!("expected [[{key}]] tables, found {}", describe(&value));
            faults.add(&place, message);
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (index, value) in values.into_iter().enumerate() {
            let line = faults.line(&value.span());
            let place = Location {
                line,
                key: format!("{key}[{}]", index + 1),
            };
            match value.into_inner() {
                DeValue::Table(table) => {
                    let prefix = format!("{}.", place.key);
                    tables.push(Section::new(table, prefix, line, faults));
                }
                other => {
                    let message = format!("expected a table, found {}", describe(&other));
                    faults.add(&place, message);
                }
            }
        }
        tables
    }

    /// Names the keys that nobody took.
    pub(super) fn finish(self, known: &[&str], faults: &mut Faults) {
        for (key, (line, _)) in self.entries {
            let place = Location {
                line,
                key: format!("{}{key}", self.prefix),
            };
            faults.add(
                &place,
                format!("unknown key; expected one of {}", known.join(", ")),
            );
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

fn parse_value<T: FromStr<Err: fmt::Display>>(
    value: &DeValue<'_>,
    place: &Location,
    expected: &str,
    faults: &mut Faults,
) -> Option<T> {
    let DeValue::String(text) = value else {
        faults.add(
            place,
            format!("expected {expected}, found {}", describe(value)),
        );
        return None;
    };
    match text.parse() {
        Ok(parsed) => Some(parsed),
        Err(error) => {
            faults.add(
                place,
                format!("expected {expected}, found {text:?}: {error}"),
            );
            None
        }
    }
}

/// A value as people would call it. Strings may be long, and may be secrets put in the wrong place:
/// a short beginning will do.
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
