//! Reads the `kind` of a tunnel and the keys that go with it.

use std::{
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
    time::Duration,
};

use super::{
    Ayiya, Heartbeat, Kind, Remote, SixInFour, UnknownValue,
    account::{self, Includes, Tls},
    section::{Faults, Located, Section},
};
use crate::{broker::beats::DEFAULT_INTERVAL, diagnostics::Location, secret::Secret};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    Interface,
    Command,
    SixInFour,
    Heartbeat,
    Ayiya,
}

/// What is expected behind `kind`.
const NAMES: &str = "\"interface\", \"command\", \"6in4\", \"6in4-heartbeat\" or \"ayiya\"";

impl FromStr for Name {
    type Err = UnknownValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "interface" => Self::Interface,
            "command" => Self::Command,
            "6in4" => Self::SixInFour,
            "6in4-heartbeat" => Self::Heartbeat,
            "ayiya" => Self::Ayiya,
            _ => return Err(UnknownValue("no such kind")),
        })
    }
}

/// The keys that only some kinds have.
pub(super) const KEYS: &[&str] = &[
    "kind",
    "up",
    "down",
    "local4",
    "remote4",
    "remote",
    "password",
    "heartbeat_interval",
    "aiccu",
    "tls_ca",
    "tls_verify",
];

/// Seconds between beats. Brokers take two minutes of silence for the end of a tunnel.
const INTERVALS: std::ops::RangeInclusive<u32> = 1..=3600;

const ARGUMENTS: &str = "a list of strings: a program and its arguments";

/// What was found, before it is known whether it belongs to the kind.
struct Keys {
    up: Option<Located<Vec<String>>>,
    down: Option<Located<Vec<String>>>,
    local4: Option<Located<Ipv4Addr>>,
    remote4: Option<Located<Ipv4Addr>>,
    remote: Option<Located<Remote>>,
    password: Option<Located<Secret>>,
    interval: Option<Located<u32>>,
    aiccu: Option<Located<String>>,
    tls_ca: Option<Located<String>>,
    tls_verify: Option<Located<bool>>,
}

/// Reads `kind` and the keys that go with it.
pub(super) fn read(
    table: &mut Section<'_>,
    includes: Includes<'_>,
    faults: &mut Faults,
) -> Option<Kind> {
    let kind_place = table.place("kind");
    let aiccu_place = table.place("aiccu");
    let places = ["up", "remote4", "password"].map(|key| table.place(key));
    let name = table.parsed::<Name>("kind", NAMES, faults);
    let keys = Keys {
        up: table.strings("up", ARGUMENTS, faults),
        down: table.strings("down", ARGUMENTS, faults),
        local4: table.parsed("local4", "an IPv4 address", faults),
        remote4: table.parsed("remote4", "an IPv4 address", faults),
        remote: table.parsed("remote", "the broker's address or name", faults),
        password: table.secret("password", faults),
        interval: table.integer("heartbeat_interval", INTERVALS, faults),
        aiccu: table.parsed("aiccu", "the path of an aiccu.conf", faults),
        tls_ca: table.parsed("tls_ca", "the path of a certificate", faults),
        tls_verify: table.boolean("tls_verify", faults),
    };
    if let Some(Located { value, place }) = &keys.aiccu {
        let tls = Tls {
            ca: keys.tls_ca.map(|at| includes.path(&at.value)),
            verify: keys.tls_verify.is_none_or(|at| at.value),
        };
        if let Some(name) = name {
            faults.add(
                &name.place,
                "expected no kind beside aiccu: the broker says it",
            );
        }
        let file = includes.path(value);
        return account::read(&file, place, tls, includes, faults)
            .map(|a| Kind::Account(Box::new(a)));
    }
    let Some(name) = name else {
        if !faults.has(&kind_place.key) && !faults.has(&aiccu_place.key) {
            faults.add(&kind_place, format!("missing; expected {NAMES}, or aiccu"));
        }
        return None;
    };
    keys.refuse_others(name.value, faults);
    let [up, remote, password] = places.map(|place| Location {
        line: name.place.line,
        ..place
    });
    match name.value {
        Name::Interface => Some(Kind::Interface),
        Name::Command => {
            let command = require(keys.up, &up, ARGUMENTS, faults)?;
            if command.value.is_empty() {
                let message = "expected a program and its arguments, found an empty list";
                faults.add(&command.place, message);
            }
            Some(Kind::Command {
                up: command.value,
                down: keys.down.map(|at| at.value).unwrap_or_default(),
            })
        }
        Name::SixInFour => Some(Kind::SixInFour(SixInFour {
            local4: keys.local4.map(|at| at.value),
            remote4: require(keys.remote4, &remote, "the broker's IPv4 address", faults)?.value,
            heartbeat: None,
        })),
        Name::Heartbeat => {
            let heartbeat = heartbeat(keys.password, keys.interval, &password, faults);
            let remote4 = require(keys.remote4, &remote, "the broker's IPv4 address", faults)?;
            Some(Kind::SixInFour(SixInFour {
                local4: keys.local4.map(|at| at.value),
                remote4: remote4.value,
                heartbeat: Some(heartbeat?),
            }))
        }
        Name::Ayiya => {
            let heartbeat = heartbeat(keys.password, keys.interval, &password, faults);
            if let (Some(_), Some(at)) = (&keys.remote, &keys.remote4) {
                faults.add(&at.place, "expected only one of remote and remote4");
            }
            let by_address = keys.remote4.map(|at| Located {
                value: Remote::Address(at.value.into()),
                place: at.place,
            });
            let expected = "the broker's IPv4 address, or its address or name as remote";
            let remote = require(keys.remote.or(by_address), &remote, expected, faults)?;
            if let (Some(local4), Remote::Address(IpAddr::V6(_))) = (&keys.local4, &remote.value) {
                faults.add(&local4.place, "expected only with a broker by IPv4");
            }
            Some(Kind::Ayiya(Ayiya {
                local4: keys.local4.map(|at| at.value),
                remote: remote.value,
                heartbeat: heartbeat?,
            }))
        }
    }
}

fn heartbeat(
    password: Option<Located<Secret>>,
    interval: Option<Located<u32>>,
    missing: &Location,
    faults: &mut Faults,
) -> Option<Heartbeat> {
    let password = require(password, missing, "the tunnel's password", faults)?;
    if password.value.expose().is_empty() {
        faults.add(&password.place, "expected a password, found nothing");
    }
    Some(Heartbeat {
        password: password.value,
        interval: interval.map_or(DEFAULT_INTERVAL, |at| Duration::from_secs(at.value.into())),
    })
}

fn require<T>(
    found: Option<Located<T>>,
    missing: &Location,
    expected: &str,
    faults: &mut Faults,
) -> Option<Located<T>> {
    if found.is_none() && !faults.has(&missing.key) {
        faults.add(missing, format!("missing; expected {expected}"));
    }
    found
}

impl Keys {
    /// Names those that do not go with the kind.
    fn refuse_others(&self, kind: Name, faults: &mut Faults) {
        use Name::{Ayiya, Command, Heartbeat, SixInFour};
        const COMMAND: (&[Name], &str) = (&[Command], "kind = \"command\"");
        const NATIVE: (&[Name], &str) = (
            &[SixInFour, Heartbeat, Ayiya],
            "kind = \"6in4\", \"6in4-heartbeat\" or \"ayiya\"",
        );
        const BEATING: (&[Name], &str) = (
            &[Heartbeat, Ayiya],
            "kind = \"6in4-heartbeat\" or \"ayiya\"",
        );
        const ACCOUNT: (&[Name], &str) = (&[], "aiccu");
        const NAMED: (&[Name], &str) = (&[Ayiya], "kind = \"ayiya\"");
        for (found, (kinds, expected)) in [
            (place(&self.up), COMMAND),
            (place(&self.down), COMMAND),
            (place(&self.local4), NATIVE),
            (place(&self.remote4), NATIVE),
            (place(&self.remote), NAMED),
            (place(&self.password), BEATING),
            (place(&self.interval), BEATING),
            (place(&self.tls_ca), ACCOUNT),
            (place(&self.tls_verify), ACCOUNT),
        ] {
            if let Some(place) = found
                && !kinds.contains(&kind)
            {
                faults.add(place, format!("expected only with {expected}"));
            }
        }
    }
}

fn place<T>(found: &Option<Located<T>>) -> Option<&Location> {
    found.as_ref().map(|at| &at.place)
}
