//! Reads the `kind` of a tunnel, and the keys that depend on it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use super::{
    Ayiya, BadRemote, CarrierChoice, Heartbeat, Kind, Remote, RemoteEndpoint, SixInFour,
    UnknownValue,
    account::{self, Includes, Tls},
    section::{Field, Located, Section},
    wireguard,
};
use crate::{
    broker::heartbeat_schedule::{DEFAULT_INTERVAL, INTERVAL_SECONDS},
    diagnostics::{Diagnostics, Location},
    secret::Secret,
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    Interface,
    Command,
    SixInFour,
    Heartbeat,
    Ayiya,
    WireGuard,
}

/// The accepted values of `kind`, for messages.
const NAMES: &str =
    "\"interface\", \"command\", \"6in4\", \"6in4-heartbeat\", \"ayiya\" or \"wireguard\"";

impl FromStr for Name {
    type Err = UnknownValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "interface" => Self::Interface,
            "command" => Self::Command,
            "6in4" => Self::SixInFour,
            "6in4-heartbeat" => Self::Heartbeat,
            "ayiya" => Self::Ayiya,
            "wireguard" => Self::WireGuard,
            _ => return Err(UnknownValue("no such kind")),
        })
    }
}

/// `kind`, and the keys that only some kinds have, except those of WireGuard.
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
    "carrier",
];

const ARGUMENTS: &str = "a list of strings: a program and its arguments";

const CARRIERS: &str = "\"auto\", \"ebpf\", \"sit\" or \"tun\"";

const REMOTE4: &str = "the broker's IPv4 address";

/// A value of `remote`. Which of them a tunnel may have depends on its kind.
enum RemoteValue {
    Host(Remote),
    WithPort(SocketAddr),
}

impl FromStr for RemoteValue {
    type Err = BadRemote;

    fn from_str(text: &str) -> Result<Self, BadRemote> {
        match text.parse() {
            Ok(address) => Ok(Self::WithPort(address)),
            Err(_) => text.parse().map(Self::Host),
        }
    }
}

/// The fields, before it is checked whether they belong to the kind.
pub(super) struct Fields {
    kind: Field<Name>,
    up: Field<Vec<String>>,
    down: Field<Vec<String>>,
    local4: Field<Ipv4Addr>,
    remote4: Field<Ipv4Addr>,
    remote: Field<RemoteValue>,
    password: Field<Secret>,
    interval: Field<u32>,
    aiccu: Field<String>,
    tls_ca: Field<String>,
    tls_verify: Field<bool>,
    carrier: Field<CarrierChoice>,
    wireguard: wireguard::Fields,
}

impl Fields {
    pub(super) fn take(section: &mut Section<'_>) -> Self {
        Self {
            kind: section.parsed("kind", NAMES),
            up: section.strings("up", ARGUMENTS),
            down: section.strings("down", ARGUMENTS),
            local4: section.parsed("local4", "an IPv4 address"),
            remote4: section.parsed("remote4", "an IPv4 address"),
            remote: section.parsed(
                "remote",
                "an address, address:port, or the name of an AYIYA broker",
            ),
            password: section.secret("password"),
            interval: section.integer("heartbeat_interval", INTERVAL_SECONDS),
            aiccu: section.parsed("aiccu", "the path of an aiccu.conf"),
            tls_ca: section.parsed("tls_ca", "the path of a certificate"),
            tls_verify: section.boolean("tls_verify"),
            carrier: section.parsed("carrier", CARRIERS),
            wireguard: wireguard::Fields::take(section),
        }
    }

    /// Whether there is an `aiccu` key, valid or not.
    pub(super) const fn has_account(&self) -> bool {
        !self.aiccu.is_absent()
    }

    /// The carrier, if there is a valid one.
    pub(super) fn carrier(&self) -> Option<CarrierChoice> {
        self.carrier.as_set().map(|carrier| carrier.value)
    }

    /// Where the file of WireGuard is named.
    pub(super) fn wireguard_file(&self) -> Option<Location> {
        self.wireguard.file_location()
    }

    /// The far end of a tunnel that other software creates, if the section has a valid one.
    pub(super) fn remote_endpoint(&self, diagnostics: &mut Diagnostics) -> Option<RemoteEndpoint> {
        let kind = self.kind.as_set()?.value;
        let remote = self.remote.as_set()?;
        if !matches!(kind, Name::Interface | Name::Command) {
            return None;
        }
        let (address, port) = match &remote.value {
            RemoteValue::Host(Remote::Address(address)) => (*address, None),
            RemoteValue::WithPort(endpoint) => (endpoint.ip(), Some(endpoint.port())),
            RemoteValue::Host(Remote::Name(name)) => {
                let message = format!(
                    "expected the address of the far end, or address:port, found the name {name:?}"
                );
                diagnostics.add(&remote.location, message);
                return None;
            }
        };
        if address.is_unspecified() || address.is_multicast() || port == Some(0) {
            let message =
                "expected the address of the far end, which is a unicast address, or address:port";
            diagnostics.add(&remote.location, message);
            return None;
        }
        Some(RemoteEndpoint {
            address: address.to_canonical(),
            port,
        })
    }

    /// Checks the fields, and returns the kind.
    pub(super) fn check(
        self,
        includes: Includes<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Option<Kind> {
        if let Some(path) = self.aiccu.as_set() {
            return self.account(path, includes, diagnostics);
        }
        let (name, line) = match &self.kind {
            Field::Set(name) => (name.value, name.location.line),
            Field::Absent(location) => {
                if !self.has_account() {
                    let message = format!("missing; expected {NAMES}, or aiccu");
                    diagnostics.add(location, message);
                }
                return None;
            }
            Field::Invalid => return None,
        };
        self.refuse_others(name, diagnostics);
        match name {
            Name::Interface => Some(Kind::Interface),
            Name::Command => self.command(line, diagnostics),
            Name::SixInFour => self.six_in_four(line, diagnostics),
            Name::Heartbeat => self.heartbeat(line, diagnostics),
            Name::Ayiya => self.ayiya(line, diagnostics),
            Name::WireGuard => {
                let wireguard = self.wireguard.check(line, includes, diagnostics)?;
                Some(Kind::WireGuard(Box::new(wireguard)))
            }
        }
    }

    fn account(
        &self,
        path: &Located<String>,
        includes: Includes<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Option<Kind> {
        if let Some(kind) = self.kind.as_set() {
            let message = "expected no kind together with aiccu: the broker provides it";
            diagnostics.add(&kind.location, message);
        }
        self.refuse_wireguard(diagnostics);
        let tls = Tls {
            ca: self.tls_ca.as_set().map(|ca| includes.path(&ca.value)),
            verify: self.tls_verify.as_set().is_none_or(|verify| verify.value),
        };
        match account::read(includes.path(&path.value), tls, includes) {
            Ok(account) => Some(Kind::Account(Box::new(account))),
            Err(reasons) => {
                for reason in reasons {
                    diagnostics.add(&path.location, reason);
                }
                None
            }
        }
    }

    /// `line` is the line of `kind`, which requires other keys. Diagnostics about missing keys name this
    /// line. The same applies to the functions below.
    fn command(self, line: usize, diagnostics: &mut Diagnostics) -> Option<Kind> {
        let up = self.up.asked_for_at(line);
        let up = up.required(ARGUMENTS, diagnostics)?;
        if up.value.is_empty() {
            let message = "expected a program and its arguments, found an empty list";
            diagnostics.add(&up.location, message);
        }
        Some(Kind::Command {
            up: up.value,
            down: self.down.value().unwrap_or_default(),
        })
    }

    fn six_in_four(self, line: usize, diagnostics: &mut Diagnostics) -> Option<Kind> {
        let remote4 = self.remote4.asked_for_at(line);
        let remote4 = remote4.required(REMOTE4, diagnostics)?;
        Some(Kind::SixInFour(SixInFour {
            local4: self.local4.value(),
            remote4: remote4.value,
            heartbeat: None,
        }))
    }

    fn heartbeat(self, line: usize, diagnostics: &mut Diagnostics) -> Option<Kind> {
        let heartbeat = heartbeat(self.password.asked_for_at(line), self.interval, diagnostics);
        let remote4 = self.remote4.asked_for_at(line);
        let remote4 = remote4.required(REMOTE4, diagnostics)?;
        Some(Kind::SixInFour(SixInFour {
            local4: self.local4.value(),
            remote4: remote4.value,
            heartbeat: Some(heartbeat?),
        }))
    }

    fn ayiya(self, line: usize, diagnostics: &mut Diagnostics) -> Option<Kind> {
        let heartbeat = heartbeat(self.password.asked_for_at(line), self.interval, diagnostics);
        if let (Field::Set(_), Field::Set(remote4)) = (&self.remote, &self.remote4) {
            let message = "expected only one of remote and remote4";
            diagnostics.add(&remote4.location, message);
        }
        let host = match self.remote {
            Field::Set(Located {
                value: RemoteValue::WithPort(_),
                location,
            }) => {
                diagnostics.add(&location, "expected an address or a name without a port");
                Field::Invalid
            }
            Field::Set(Located {
                value: RemoteValue::Host(value),
                location,
            }) => Field::Set(Located { value, location }),
            Field::Absent(location) => Field::Absent(location),
            Field::Invalid => Field::Invalid,
        };
        let by_address = self.remote4.map(|address| Remote::Address(address.into()));
        let remote = host.or(by_address).asked_for_at(line);
        let expected = "the broker's IPv4 address, or its address or name as remote";
        let remote = remote.required(expected, diagnostics)?;
        if let (Some(local4), Remote::Address(IpAddr::V6(_))) =
            (self.local4.as_set(), &remote.value)
        {
            diagnostics.add(&local4.location, "expected only with a broker by IPv4");
        }
        Some(Kind::Ayiya(Ayiya {
            local4: self.local4.value(),
            remote: remote.value,
            heartbeat: heartbeat?,
        }))
    }

    /// Reports the keys that do not belong to the kind.
    fn refuse_others(&self, kind: Name, diagnostics: &mut Diagnostics) {
        use Name::{Ayiya, Command, Heartbeat, Interface, SixInFour};
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
        const CARRIED: (&[Name], &str) = (
            &[SixInFour, Heartbeat],
            "kind = \"6in4\" or \"6in4-heartbeat\", or aiccu",
        );
        const NAMED: (&[Name], &str) = (
            &[Ayiya, Interface, Command],
            "kind = \"ayiya\", \"interface\" or \"command\"",
        );
        for (location, (kinds, expected)) in [
            (self.up.location(), COMMAND),
            (self.down.location(), COMMAND),
            (self.local4.location(), NATIVE),
            (self.remote4.location(), NATIVE),
            (self.remote.location(), NAMED),
            (self.password.location(), BEATING),
            (self.interval.location(), BEATING),
            (self.tls_ca.location(), ACCOUNT),
            (self.tls_verify.location(), ACCOUNT),
            (self.carrier.location(), CARRIED),
        ] {
            if let Some(location) = location
                && !kinds.contains(&kind)
            {
                diagnostics.add(location, format!("expected only with {expected}"));
            }
        }
        if kind != Name::WireGuard {
            self.refuse_wireguard(diagnostics);
        }
    }
}

impl Fields {
    fn refuse_wireguard(&self, diagnostics: &mut Diagnostics) {
        for location in self.wireguard.locations() {
            diagnostics.add(location, "expected only with kind = \"wireguard\"");
        }
    }
}

fn heartbeat(
    password: Field<Secret>,
    interval: Field<u32>,
    diagnostics: &mut Diagnostics,
) -> Option<Heartbeat> {
    let password = password.required("the tunnel's password", diagnostics)?;
    if password.value.expose().is_empty() {
        diagnostics.add(&password.location, "expected a password, found nothing");
    }
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    Some(Heartbeat {
        password: password.value,
        interval: interval.value().map_or(DEFAULT_INTERVAL, seconds),
    })
}
