//! The ledger as a file.

use std::{fmt, fmt::Write as _, time::Duration};

use super::{Age, BootId, Ledger, Moment, Refusal};
use crate::state_file::{Damaged, Frame};

pub(super) const FRAME: Frame = Frame {
    comment: "# Recent connects to brokers, written by sixxs. If this file is damaged, sixxs assumes that no connect is left.",
    version: "sixxs-connects 1",
};

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
        let mut lines = FRAME.lines(file)?;
        let boot: BootId = lines
            .next()
            .and_then(|(_, line)| line.strip_prefix("boot "))
            .and_then(|id| id.parse().ok())
            .ok_or_else(|| damaged(3, "\"boot\" and a boot id"))?;
        let rebooted = boot != now.boot;
        let mut ledger = Self::new(now.boot.clone());
        for (number, line) in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let read = ledger.entry(&words, rebooted);
            read.ok_or_else(|| damaged(number, "a connect or a refusal"))?;
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
        let mut text = format!("boot {}\n", self.boot.0);
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
        FRAME.text(&text)
    }
}

/// The range is 584 years.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
