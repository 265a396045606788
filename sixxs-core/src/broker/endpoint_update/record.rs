//! What a run leaves to the next one: the accepted addresses, and the last failure.
//!
//! Times are ages, like those of the connect limit ([`crate::broker::connects`]): a reboot never makes one
//! longer. The file has no secret, and only a digest of the configuration.

use std::{fmt::Write as _, net::Ipv4Addr, time::Duration};

use sha1::{Digest as _, Sha1};

use super::{Failure, Subject};
use crate::{
    broker::{
        age::{Age, BootId, Moment},
        hex,
    },
    config::EndpointUpdate,
    state_file::{Damaged, Frame},
};

/// Accepted addresses are remembered for this time, besides the last one.
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

/// The maximum number of remembered addresses.
const MOST_ACCEPTED: usize = 64;

const FRAME: Frame = Frame {
    comment: "# Endpoint updates of a tunnel, written by sixxs.",
    version: "sixxs-endpoint-update 1",
};

/// To whom a record belongs, by digests.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owner {
    /// Server, user and host name. For another owner the accepted addresses mean nothing.
    target: String,
    /// The same, the password and the authorities. With others, a failure is over. Only 16 bits of the digest: they show a
    /// change of the password, but not whether a guess of it is right.
    credentials: String,
}

impl Owner {
    fn of(update: &EndpointUpdate) -> Self {
        let EndpointUpdate {
            url,
            user,
            password,
            hostname,
            ca,
            remote: _,
            local4: _,
        } = update;
        let server = [url.authority(), user.clone(), hostname.clone()];
        let target = digest(
            server
                .iter()
                .map(String::as_str)
                .chain([url.target.expose()]),
        );
        let ca = ca.as_deref().unwrap_or_default();
        Self {
            credentials: digest([target.as_str(), password.expose(), ca].into_iter())
                .chars()
                .take(CREDENTIALS_DIGITS)
                .collect(),
            target,
        }
    }
}

/// Number of hexadecimal digits that are kept of the digest with the password.
const CREDENTIALS_DIGITS: usize = 4;

fn digest<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    let mut digest = Sha1::new();
    for part in parts {
        digest.update(part.len().to_be_bytes());
        digest.update(part);
    }
    hex(&digest.finalize())
}

/// An address that the server has accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    pub(super) subject: Subject,
    /// The address in the server's answer.
    pub(super) address: Option<Ipv4Addr>,
    pub(super) age: Age,
    /// Whether that was before the host was started.
    pub(super) is_of_earlier_boot: bool,
}

/// The last of some failures in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) failure: Failure,
    /// Number of failures in a row.
    pub(super) failures: u32,
    pub(super) subject: Subject,
    pub(super) age: Age,
    /// Whether the server may have another address than the last accepted one, because of one of these failures.
    pub(super) leaves_doubt: bool,
}

/// The record of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    boot: BootId,
    owner: Owner,
    /// The oldest first.
    pub(super) accepted: Vec<Accepted>,
    pub(super) trouble: Option<Trouble>,
}

impl Record {
    /// An empty record, for a tunnel without a file.
    #[must_use]
    pub fn new(update: &EndpointUpdate, now: &Moment) -> Self {
        Self {
            boot: now.boot.clone(),
            owner: Owner::of(update),
            accepted: Vec::new(),
            trouble: None,
        }
    }

    /// Reads the file of a tunnel. A record of another server, user or host name counts as none; with another
    /// password the last failure is over.
    pub fn read(file: &[u8], update: &EndpointUpdate, now: &Moment) -> Result<Self, Damaged> {
        let read = Self::parse(file, now)?;
        let owner = Owner::of(update);
        if read.owner.target != owner.target {
            return Ok(Self::new(update, now));
        }
        let trouble = read
            .trouble
            .filter(|_| read.owner.credentials == owner.credentials);
        Ok(Self {
            owner,
            trouble,
            ..read
        })
    }

    /// Whether the server has accepted an address.
    #[must_use]
    pub const fn has_accepted(&self) -> bool {
        !self.accepted.is_empty()
    }

    /// The last accepted address.
    pub(super) fn latest(&self) -> Option<&Accepted> {
        self.accepted.last()
    }

    /// How often the server has accepted it within a day.
    pub(super) fn times_accepted(&self, subject: Subject, now: Duration) -> u32 {
        let recent = self
            .accepted
            .iter()
            .filter(|accepted| accepted.age.at(now) < DAY);
        let same = recent.filter(|accepted| accepted.subject == subject);
        u32::try_from(same.count()).unwrap_or(u32::MAX)
    }

    pub(super) fn accept(&mut self, subject: Subject, address: Option<Ipv4Addr>, now: Duration) {
        self.trouble = None;
        self.accepted.retain(|accepted| accepted.age.at(now) < DAY);
        if self.accepted.len() >= MOST_ACCEPTED {
            self.accepted.remove(0);
        }
        self.accepted.push(Accepted {
            subject,
            address,
            age: Age::new(now),
            is_of_earlier_boot: false,
        });
    }

    fn parse(file: &[u8], now: &Moment) -> Result<Self, Damaged> {
        const BOOT: &str = "\"boot\" and a boot id";
        let damaged = |line, expected| Damaged { line, expected };
        let mut lines = FRAME.lines(file)?;
        let mut value = |line: usize, key: &str, expected| {
            let (_, text) = lines.next().ok_or(Damaged { line, expected })?;
            let value = text
                .strip_prefix(key)
                .map(|value| value.trim_start().to_owned());
            value.ok_or(Damaged { line, expected })
        };
        let boot = value(3, "boot ", BOOT)?;
        let boot: BootId = boot.parse().map_err(|_| damaged(3, BOOT))?;
        let mut record = Self {
            owner: Owner {
                target: value(4, "target ", "\"target\"")?,
                credentials: value(5, "credentials ", "\"credentials\"")?,
            },
            boot: now.boot.clone(),
            accepted: Vec::new(),
            trouble: None,
        };
        let has_rebooted = boot != now.boot;
        for (number, line) in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let read = record.entry(&words, has_rebooted);
            read.ok_or_else(|| damaged(number, "an accepted address or a failure"))?;
        }
        Ok(record)
    }

    fn entry(&mut self, words: &[&str], has_rebooted: bool) -> Option<()> {
        let age = |then: &str, noted: &str| Age::read(then, noted, has_rebooted);
        match *words {
            [
                "accepted",
                subject,
                address,
                boot @ ("this" | "earlier"),
                then,
                noted,
            ] => {
                self.accepted.push(Accepted {
                    subject: Subject::from_word(subject)?,
                    address: match address {
                        "-" => None,
                        address => Some(address.parse().ok()?),
                    },
                    age: age(then, noted)?,
                    is_of_earlier_boot: has_rebooted || boot == "earlier",
                });
                (self.accepted.len() <= MOST_ACCEPTED).then_some(())
            }
            [
                "failed",
                subject,
                failure,
                failures,
                doubt @ ("sure" | "doubt"),
                then,
                noted,
            ] => {
                self.trouble = Some(Trouble {
                    failure: Failure::from_name(failure)?,
                    failures: failures.parse().ok()?,
                    subject: Subject::from_word(subject)?,
                    age: age(then, noted)?,
                    leaves_doubt: doubt == "doubt",
                });
                Some(())
            }
            _ => None,
        }
    }

    /// The text of the file.
    #[must_use]
    pub fn text(&self, now: Duration) -> String {
        let Owner {
            target,
            credentials,
        } = &self.owner;
        let mut text = format!(
            "boot {}\ntarget {target}\ncredentials {credentials}\n",
            self.boot.0
        );
        for accepted in &self.accepted {
            let address = accepted.address.map_or("-".to_owned(), |a| a.to_string());
            let boot = match accepted.is_of_earlier_boot {
                true => "earlier",
                false => "this",
            };
            let subject = accepted.subject.word();
            // Writing into a String does not fail.
            let _infallible = writeln!(
                text,
                "accepted {subject} {address} {boot} {}",
                age_words(accepted.age, now)
            );
        }
        if let Some(trouble) = &self.trouble {
            let Trouble {
                failure,
                failures,
                subject,
                age,
                leaves_doubt,
            } = trouble;
            let doubt = if *leaves_doubt { "doubt" } else { "sure" };
            let _infallible = writeln!(
                text,
                "failed {} {} {failures} {doubt} {}",
                subject.word(),
                failure.name(),
                age_words(*age, now)
            );
        }
        FRAME.text(&text)
    }
}

/// The age as of now, so that a reboot costs little.
fn age_words(mut age: Age, now: Duration) -> String {
    age.note(now);
    let [then, noted] = [age.then, age.noted].map(nanoseconds);
    format!("{then} {noted}")
}

/// The range is 584 years.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
