//! Values that are one of a few words: enums here, strings in JSON and in text.
//!
//! A reader takes a word that it does not know, of a newer daemon, as `unknown`.

use std::fmt;

use serde::{Deserialize, Serialize};
use sixxs_common::treatment;
use sixxs_core::{broker::endpoint_update, config, health, link, tunnel};

/// Defines enums with the word of each variant, and `Unknown` for all other words.
macro_rules! words {
    ($($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)+ })+) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$variant_meta])* #[serde(rename = $word)] $variant,)+
            /// A word that this version does not know.
            #[default]
            #[serde(other, rename = "unknown")]
            Unknown,
        }

        impl $name {
            /// All that this version knows.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Its word.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                    Self::Unknown => "unknown",
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }
    )+};
}

words! {
    /// The software that creates a tunnel's interface.
    Kind {
        /// Other software.
        Interface = "interface",
        /// Commands of the user.
        Command = "command",
        /// The daemon: IPv6 in IPv4.
        SixInFour = "6in4",
        /// The daemon: IPv6 in IPv4, with heartbeats.
        SixInFourHeartbeat = "6in4-heartbeat",
        /// The daemon: AYIYA.
        Ayiya = "ayiya",
        /// The daemon: WireGuard.
        WireGuard = "wireguard",
        /// The daemon, and the broker decides the kind.
        Account = "aiccu",
    }

    /// A tunnel's state.
    State {
        /// Stopped by the user.
        Down = "down",
        /// Waits for its interface.
        Waiting = "waiting",
        /// Connects to its broker, or runs its command.
        Connecting = "connecting",
        /// The interface is up.
        Up = "up",
        /// The broker refuses connects.
        LockedOut = "locked_out",
        /// The driver failed.
        Failed = "failed",
    }

    /// A tunnel's health.
    Health {
        /// Replies leave by the tunnel.
        Healthy = "healthy",
        /// Replies leave by the tunnel because the kernel programs redirect them.
        Degraded = "degraded",
        /// Replies do not leave by the tunnel, or cannot.
        Failing = "failing",
    }

    /// Whether a link of a group can carry packets.
    LinkState {
        /// It can.
        Good = "good",
        /// Its health is failing.
        Failing = "failing",
        /// It is not up.
        Down = "down",
    }

    /// The state of a tunnel's endpoint updates.
    UpdateState {
        /// The broker has this host's address.
        Current = "current",
        /// A request is in progress.
        Sending = "sending",
        /// Waits for a path, for a connect that is allowed, or for the end of a pause.
        Waiting = "waiting",
        /// Failed, and is tried again.
        Retrying = "retrying",
        /// Failed, and needs a person.
        Failed = "failed",
    }

    /// A tunnel's rules and routes.
    Routing {
        /// All are there.
        InPlace = "in_place",
        /// At least one is not there.
        Missing = "missing",
    }

    /// The kernel programs of an interface.
    Program {
        /// They are attached.
        Attached = "attached",
        /// They are not.
        Missing = "missing",
    }

    /// How the kernel programs are attached.
    Hook {
        /// By TCX links (Linux 6.6).
        Tcx = "tcx",
        /// By a `clsact` qdisc.
        Clsact = "clsact",
    }

    /// Where the XDP program is attached.
    XdpMode {
        /// In the driver.
        Native = "native",
        /// In the kernel, after it has made an `sk_buff`.
        Generic = "generic",
    }

    /// Where a tunnel is silent.
    Silence {
        /// Outer packets leave, and none arrives.
        NothingArrives = "nothing_arrives",
        /// Outer packets arrive, and the tunnel's interface delivers none.
        NotDelivered = "not_delivered",
    }

    /// What carries the packets of a native tunnel.
    Carrier {
        /// The daemon, by a TUN device.
        Tun = "tun",
        /// The kernel, by a `sit` device.
        Sit = "sit",
        /// The programs in the kernel.
        Ebpf = "ebpf",
    }

    /// What became of a leak.
    Treatment {
        /// Redirected into the tunnel.
        Redirected = "redirected",
        /// Dropped, as configured.
        Dropped = "dropped",
        /// Passed unchanged.
        Observed = "observed",
        /// Answered with Packet Too Big.
        TooBig = "too_big",
        /// Dropped because the tunnel was missing.
        NoTunnel = "no_tunnel",
        /// Dropped as an outer packet of the tunnel itself.
        Recursion = "recursion",
    }
}

impl From<&config::Kind> for Kind {
    fn from(kind: &config::Kind) -> Self {
        match kind {
            config::Kind::Interface => Self::Interface,
            config::Kind::Command { .. } => Self::Command,
            config::Kind::SixInFour(outer) if outer.heartbeat.is_some() => Self::SixInFourHeartbeat,
            config::Kind::SixInFour(_) => Self::SixInFour,
            config::Kind::Ayiya(_) => Self::Ayiya,
            config::Kind::WireGuard(_) => Self::WireGuard,
            config::Kind::Account(_) => Self::Account,
        }
    }
}

impl From<&tunnel::State> for State {
    fn from(state: &tunnel::State) -> Self {
        match state {
            tunnel::State::Down => Self::Down,
            tunnel::State::Waiting(_) => Self::Waiting,
            tunnel::State::Connecting(_) => Self::Connecting,
            tunnel::State::LockedOut(_) => Self::LockedOut,
            tunnel::State::Up => Self::Up,
            tunnel::State::Retrying(_) | tunnel::State::Failed(_) => Self::Failed,
        }
    }
}

impl From<endpoint_update::State> for UpdateState {
    fn from(state: endpoint_update::State) -> Self {
        match state {
            endpoint_update::State::Current => Self::Current,
            endpoint_update::State::Sending => Self::Sending,
            endpoint_update::State::Waiting => Self::Waiting,
            endpoint_update::State::Retrying => Self::Retrying,
            endpoint_update::State::Failed => Self::Failed,
        }
    }
}

impl From<health::Level> for Health {
    fn from(level: health::Level) -> Self {
        match level {
            health::Level::Healthy => Self::Healthy,
            health::Level::Degraded => Self::Degraded,
            health::Level::Failing => Self::Failing,
        }
    }
}

impl From<tunnel::CarrierKind> for Carrier {
    fn from(kind: tunnel::CarrierKind) -> Self {
        match kind {
            tunnel::CarrierKind::Tun => Self::Tun,
            tunnel::CarrierKind::Sit => Self::Sit,
            tunnel::CarrierKind::Ebpf => Self::Ebpf,
        }
    }
}

impl From<link::XdpMode> for XdpMode {
    fn from(mode: link::XdpMode) -> Self {
        match mode {
            link::XdpMode::Native => Self::Native,
            link::XdpMode::Generic => Self::Generic,
        }
    }
}

impl From<treatment::Treatment> for Treatment {
    fn from(treatment: treatment::Treatment) -> Self {
        use treatment::Treatment;
        match treatment {
            Treatment::Redirected => Self::Redirected,
            Treatment::Dropped => Self::Dropped,
            Treatment::Observed => Self::Observed,
            Treatment::TooBig | Treatment::TooBigDropped => Self::TooBig,
            Treatment::NoTunnel => Self::NoTunnel,
            Treatment::Recursion => Self::Recursion,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn words_in_json_and_text_are_the_same() {
        for state in State::ALL {
            assert_eq!(json!(state), json!(state.name()));
            let read: State = serde_json::from_value(json!(state.name())).unwrap();
            assert_eq!(read, *state);
        }
        assert_eq!(format!("{:<6}|", State::Up), "up    |");
    }

    /// Messages of the core and JSON use the same words.
    #[test]
    fn the_core_uses_the_same_words() {
        use sixxs_core::{
            health::Level,
            tunnel::{LockedOut, State as Core},
        };
        let locked_out = LockedOut {
            until_unix: 0,
            reason: String::new(),
        };
        for state in [
            Core::Down,
            Core::Waiting(String::new()),
            Core::Connecting(None),
            Core::LockedOut(locked_out),
            Core::Up,
            Core::Retrying(String::new()),
            Core::Failed(String::new()),
        ] {
            assert_eq!(State::from(&state).name(), state.name());
        }
        for level in [Level::Healthy, Level::Degraded, Level::Failing] {
            assert_eq!(Health::from(level).name(), level.name());
        }
        for treatment in treatment::Treatment::ALL {
            assert_ne!(Treatment::from(treatment), Treatment::Unknown);
        }
    }

    /// A newer daemon may have more states than an older `sixxs top` knows.
    #[test]
    fn an_unknown_word_is_no_error() {
        let read: State = serde_json::from_value(json!("hibernating")).unwrap();
        assert_eq!((read, read.name()), (State::Unknown, "unknown"));
    }
}
