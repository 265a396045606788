//! The ledger as a file.

use std::{fmt, fmt::Write as _, time::Duration};

use super::{Age, BootId, Ledger, Moment, Refusal};

/// The file of connects is damaged, or from a later version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: expected {expected}")]
pub struct Damaged {
    /// The line, from 1.
    pub line: usize,
    /// The expected content.
    pub expected: &'static str,
}

pub(super) const HEADER: &str = "# Recent connects to brokers, written by sixxs. If this file is damaged, sixxs assumes that no connect is left.";
pub(super) const VERSION: &str = "sixxs-connects 1";

impl Ledger {
    /// Reads the file. If it is damaged, every slot of every broker counts as taken now. The caller
    /// must then write the ledger back, so that this state expires.
    #[must_use]
    pub fn read(file: &[u8], now: &Moment) -> (Self, Option<Damaged>) {
        match Self::parse(file, now) {
            Ok(ledger) => (ledger, None),
            Err(damaged) => {
                let mut ledger = Self::new(now.boot.clone());
                ledger.unreadable = Some(Age::new(now.since_boot));
                (ledger, Some(damaged))
            }
        }
    }

    fn parse(file: &[u8], now: &Moment) -> Result<Self, Damaged> {
        let damaged = |line, expected| Damaged { line, expected };
        let text = str::from_utf8(file).map_err(|_| damaged(1, "text"))?;
        let lines: Vec<&str> = text.lines().collect();
        // Rename is atomic, but not every disk keeps its promise: this line reveals a truncated
        // file.
        let end = format!("end {}", lines.len());
        if lines.last() != Some(&end.as_str()) || !text.ends_with('\n') {
            return Err(damaged(
                lines.len().max(1),
                "\"end\" and the number of lines",
            ));
        }
        if lines.get(1) != Some(&VERSION) {
            return Err(damaged(2, VERSION));
        }
        let boot = lines.get(2).and_then(|line| line.strip_prefix("boot "));
        let boot: BootId = boot
            .and_then(|id| id.parse().ok())
            .ok_or_else(|| damaged(3, "\"boot\" and a boot id"))?;
        let rebooted = boot != now.boot;
        let mut ledger = Self::new(now.boot.clone());
        for (index, line) in lines.iter().enumerate().take(lines.len() - 1).skip(3) {
            let words: Vec<&str> = line.split(' ').collect();
            let read = ledger.entry(&words, rebooted);
            read.ok_or_else(|| damaged(index + 1, "a connect or a refusal"))?;
        }
        Ok(ledger)
    }

    fn entry(&mut self, words: &[&str], rebooted: bool) -> Option<()> {
        let age = |then: &str, noted: &str| Age::read(then, noted, rebooted);
        match *words {
            ["connect", broker, then, noted] => {
                let entry = self.entries.entry(broker.to_owned()).or_default();
                entry.taken.push(age(then, noted)?);
            }
            ["refused", broker, time @ ("first" | "again"), then, noted] => {
                let entry = self.entries.entry(broker.to_owned()).or_default();
                entry.refused = Some(Refusal {
                    age: age(then, noted)?,
                    again: time == "again",
                });
            }
            ["unreadable", then, noted] => self.unreadable = Some(age(then, noted)?),
            _ => return None,
        }
        Some(())
    }

    /// The text of the file.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{HEADER}\n{VERSION}\nboot {}\n", self.boot.0);
        let mut line = |what: fmt::Arguments<'_>, age: &Age| {
            let [then, noted] = [age.then, age.noted].map(nanoseconds);
            // Writing into a String does not fail.
            let _infallible = writeln!(text, "{what} {then} {noted}");
        };
        if let Some(age) = &self.unreadable {
            line(format_args!("unreadable"), age);
        }
        for (broker, entry) in &self.entries {
            for age in &entry.taken {
                line(format_args!("connect {broker}"), age);
            }
            if let Some(Refusal { age, again }) = &entry.refused {
                let time = if *again { "again" } else { "first" };
                line(format_args!("refused {broker} {time}"), age);
            }
        }
        let lines = text.lines().count() + 1;
        let _infallible = writeln!(text, "end {lines}");
        text
    }
}

/// The range is 584 years.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
