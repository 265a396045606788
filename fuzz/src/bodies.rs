//! The bodies of the fuzz targets: a function for each kind of untrusted bytes. It must not panic for any
//! input, and asserts the properties that hold for every input.
//!
//! libFuzzer calls these functions (`fuzz_targets`), and an ordinary test calls them with the corpus
//! (`tests/tests/fuzz_corpus.rs`). `super::broker` are the lab's brokers, which share no code with the
//! program: each side has to accept valid bytes of the other.

use std::{net::Ipv6Addr, time::Duration};

use sixxs_common::{
    address::Address,
    decide::Tables,
    endpoint::{self, Direction, EndpointFilter, Version},
    layout::Source,
    packet::UDP,
    screening::{Expectations, Expected, LocalEnd, Screened, Sender, screen},
    six_in_four::{self, Outer, OuterPath},
};
use sixxs_core::{
    aiccu,
    broker::{
        ayiya::{Action as Ayiya, Identity, Now, Received, Session, wire::DropReason},
        connects::{Ledger, Limit, Moment},
        heartbeat,
        tic::{Action as Tic, Agent, Client, Goal, Login, Problem, saved},
    },
    config,
    secret::Secret,
};

use super::broker;

#[path = "endpoint_update.rs"]
mod endpoint_update;
#[path = "tunnel_info.rs"]
mod tunnel_info;
#[path = "wg_quick.rs"]
mod wg_quick;

/// A kind of bytes.
pub struct Target {
    /// The name of the target, and of its directory in the corpus.
    pub name: &'static str,
    /// Processes the bytes.
    pub body: fn(&[u8]),
}

/// All targets.
pub const TARGETS: [Target; 11] = [
    Target {
        name: "ayiya",
        body: ayiya,
    },
    Target {
        name: "tic",
        body: tic,
    },
    Target {
        name: "heartbeat",
        body: beat,
    },
    Target {
        name: "aiccu_conf",
        body: aiccu_conf,
    },
    Target {
        name: "config",
        body: toml,
    },
    Target {
        name: "connects",
        body: connects,
    },
    Target {
        name: "saved",
        body: tic_cache,
    },
    Target {
        name: "outer",
        body: outer,
    },
    Target {
        name: "wg_quick",
        body: wg_quick::body,
    },
    Target {
        name: "endpoint_update",
        body: endpoint_update::body,
    },
    Target {
        name: "tunnel_info",
        body: tunnel_info::body,
    },
];

const US: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x2ff, 1, 0, 0, 0, 2);
const BROKER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x2ff, 1, 0, 0, 0, 1);
const PASSWORD: &str = "f3d47c2de40fb698e1ab15d757a09bfc";
const TIME: u64 = 0x5f5e_1000;

/// Splits bytes into pieces: a byte of flags, two of length, and that number of bytes. The last piece may be
/// shorter.
fn pieces(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let ([flags, high, low], rest) = bytes.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (piece, rest) = rest.split_at(length.min(rest.len()));
        bytes = rest;
        Some((*flags, piece))
    })
}

/// Datagrams that arrive one after the other at one end of an AYIYA tunnel. The flags of a piece make its
/// header valid (1) and its signature (2), because random bytes never are. The other flags (4…) advance the
/// time.
pub fn ayiya(bytes: &[u8]) {
    let identity = Identity {
        address: US,
        peer: BROKER,
        password: Secret::from(PASSWORD),
        interval: Duration::from_secs(60),
    };
    let key = broker::ayiya::Key::of(PASSWORD);
    let mut session = Session::new(&identity, Duration::ZERO);
    let mut now = Now {
        elapsed: Duration::ZERO,
        unix_seconds: TIME,
    };
    for (flags, piece) in pieces(bytes) {
        let seconds = u64::from(flags >> 2);
        now.elapsed += Duration::from_secs(seconds);
        now.unix_seconds += seconds;
        let mut datagram = piece.to_vec();
        if flags & 1 != 0 && datagram.len() >= broker::ayiya::HEADER_BYTES {
            let operation = datagram[2] & 0x0f;
            datagram[..3].copy_from_slice(&[0x41, 0x52, 0x10 | operation]);
            datagram[4..8].copy_from_slice(&now.unix_seconds.to_be_bytes()[4..]);
            datagram[8..24].copy_from_slice(&BROKER.octets());
        }
        if flags & 2 != 0 && datagram.len() >= broker::ayiya::HEADER_BYTES {
            key.sign(&mut datagram);
        }
        let received = session.receive(&datagram, now);
        if let Ok(received) = received {
            assert!(key.signed(&datagram) && datagram[8..24] == BROKER.octets());
            // The longest payload of UDP over IPv4.
            if datagram.len() <= 65_507 {
                assert_eq!(screened(&datagram, now.unix_seconds), Screened::Pass);
            }
            if let Received::Packet(packet) = received {
                let header = broker::ayiya::header(&datagram).expect("the broker reads it too");
                assert!(header.is_recent(now.unix_seconds));
                assert!(packet.len() >= 40 && packet[0] >> 4 == 6 && packet[8..24] != US.octets());
            }
            assert!(session.is_answering(now.elapsed));
            assert_eq!(session.receive(&datagram, now), Err(DropReason::Repeat));
        }
        // At most heartbeats, a probe and a doubt: the number of actions is limited.
        let mut actions = std::iter::from_fn(|| session.poll(now)).take(10);
        let sent = actions.by_ref().filter_map(|action| match action {
            Ayiya::Send(datagram) => Some(datagram),
            Ayiya::LocateAgain => None,
        });
        for datagram in sent {
            assert!(key.signed(&datagram) && broker::ayiya::header(&datagram).is_some());
        }
        assert!(session.poll(now).is_none());
        assert!(session.due(now.elapsed) > now.elapsed);
    }
}

/// The lines of a TIC server, in pieces as they arrive. The first byte selects the client's goal.
pub fn tic(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else {
        return;
    };
    let login = Login {
        username: "ABC1-SIXXS".to_owned(),
        password: Secret::from("a password of somebody's"),
        require_tls: choice & 4 != 0,
        agent: Agent {
            name: "sixxs".to_owned(),
            version: "1".to_owned(),
            os: "Linux".to_owned(),
            release: "6".to_owned(),
        },
    };
    let goal = match choice & 3 {
        0 => Goal::Parameters {
            tunnel_id: Some("T42".to_owned()),
        },
        1 => Goal::Parameters { tunnel_id: None },
        2 => Goal::Tunnels,
        _ => Goal::Pops,
    };
    let mut client = Client::new(login, goal).expect("this login can be sent");
    for piece in bytes.chunks(usize::from(choice >> 3) + 1) {
        let mut actions = match client.received(piece, TIME) {
            Ok(actions) => actions,
            Err(error) => {
                let words = error.to_string();
                assert!(!words.chars().any(char::is_control), "{words:?}");
                if let Problem::Refused(words) | Problem::TooOften(words) = &error.problem {
                    assert!(!words.contains("a password of somebody's"), "{words:?}");
                }
                // After an error, nothing more happens.
                assert!(matches!(client.received(bytes, TIME).as_deref(), Ok([])));
                assert_eq!(client.closed(), None);
                return;
            }
        };
        if matches!(actions[..], [Tic::StartTls]) {
            actions = client.tls_is_up();
        }
        for action in actions {
            match action {
                Tic::Send(bytes) => {
                    let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
                    assert!(lines == 1 && bytes.ends_with(b"\n") && bytes.len() < 512);
                }
                Tic::StartTls => unreachable!("TLS was up"),
                Tic::Done(_) => return,
            }
        }
    }
    assert!(client.closed().is_some());
}

/// A heartbeat as the broker reads it, and one of the program with the time from these bytes.
pub fn beat(bytes: &[u8]) {
    if let Some(beat) = broker::heartbeat::Heartbeat::read(bytes) {
        // Without the password a valid signature is practically impossible.
        assert!(!beat.is_signed(PASSWORD) || bytes.len() > 70);
        assert!(beat.is_recent(beat.unix_seconds));
    }
    if let Some((address, rest)) = bytes.split_first_chunk::<16>()
        && let Some(seconds) = rest.first_chunk()
    {
        let address = Ipv6Addr::from(*address);
        let seconds = u64::from_be_bytes(*seconds);
        let text = heartbeat::datagram(address, seconds, &Secret::from(PASSWORD));
        let beat = broker::heartbeat::Heartbeat::read(text.as_bytes()).expect("it is read");
        assert!(beat.is_signed(PASSWORD) && !beat.is_signed("another"));
        assert_eq!((beat.tunnel, beat.unix_seconds), (address, seconds));
        assert_eq!(beat.sender, None);
    }
}

/// An aiccu.conf.
pub fn aiccu_conf(bytes: &[u8]) {
    match aiccu::parse("aiccu.conf", bytes) {
        Ok(aiccu) => {
            assert!(!aiccu.username.is_empty());
            for note in &aiccu.notes {
                assert!(note.line >= 1 && !note.text.is_empty());
            }
            let shown = format!("{aiccu:?}");
            assert!(shown.contains("(secret)"));
        }
        Err(invalid) => assert!(!invalid.to_string().is_empty()),
    }
}

/// A configuration. Some of the files that it refers to exist.
pub fn toml(bytes: &[u8]) {
    const ACCOUNT: &[u8] = b"username a\npassword b\nserver tic.example\ntunnel_id T1\n";
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let files = |path: &str| match path {
        "/none" => Err("no such file".into()),
        _ => Ok(ACCOUNT.to_vec().into()),
    };
    let with_files = config::parse_with("sixxs.toml", text, &files);
    match &with_files {
        Ok(config) => {
            assert_eq!(config.notes().count(), config.notes().count());
            let sources: usize = config.tunnels.iter().map(|t| t.sources().count()).sum();
            assert!(sources <= text.len());
            let _either = config.has_secrets();
        }
        Err(invalid) => assert!(!invalid.to_string().is_empty()),
    }
    if config::parse("sixxs.toml", text).is_ok() {
        assert!(with_files.is_ok());
    }
}

/// The ledger of connects. For any file, the limit holds, and the written ledger can be read.
pub fn connects(bytes: &[u8]) {
    const BROKER: &str = "tic.example";
    let moment = |boot: &str, seconds| Moment {
        boot: boot.parse().expect("it is a boot id"),
        since_boot: Duration::from_secs(seconds),
    };
    let limit = Limit::default();
    for now in [moment("a", 5000), moment("b", 10)] {
        let (mut ledger, damaged) = Ledger::read(bytes, &now);
        assert_eq!(
            ledger.is_unreadable(),
            damaged.is_some() || ledger.is_unreadable()
        );
        let standing = ledger.standing(BROKER, &limit, &now);
        let taken = (0..10)
            .take_while(|_| ledger.take(&[BROKER], &limit, &now).is_ok())
            .count();
        assert!(taken <= limit.connects as usize);
        if standing.locked_out.is_some() || damaged.is_some() {
            assert_eq!(taken, 0);
        }
        ledger.lock_out(&[BROKER], &limit, &now);
        ledger.prune(&limit, &now);
        assert!(ledger.take(&[BROKER], &limit, &now).is_err());
        let (again, damaged) = Ledger::read(ledger.text().as_bytes(), &now);
        assert_eq!((&again, damaged), (&ledger, None));
        // After all limits expire, including the block for a week, a connect is allowed again.
        let later = Moment {
            since_boot: now.since_boot + limit.block * 2,
            ..now
        };
        assert!(ledger.take(&[BROKER], &limit, &later).is_ok());
    }
}

/// The saved TIC parameters.
pub fn tic_cache(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok((asked, parameters)) = saved::read(text) {
        let written = saved::text(&asked, &parameters);
        assert_eq!(saved::read(&written), Ok((asked, parameters)));
    }
}

/// The tables of a host with one tunnel, in slot 3, with the address [`US`].
struct OneTunnel;

impl Tables for OneTunnel {
    fn source(&self, address: Address) -> Option<Source> {
        (address == Address::from_octets(US.octets())).then(|| Source::new(3, 128, 0))
    }

    fn is_direct(&self, _tunnel: u32, _destination: Address) -> bool {
        false
    }

    fn leads_here(&self, _tunnel: u32) -> bool {
        false
    }
}

/// What the programs expect of packets for tunnels of one host at one address: a 6in4 tunnel in slot 3, and an AYIYA
/// tunnel in slot 4.
struct TwoEnds {
    ayiya: Expected,
    unix_seconds: u64,
}

const HERE: [u8; 4] = [192, 0, 2, 10];
const POP: [u8; 4] = [198, 51, 100, 1];
const PORT: [u8; 2] = [0x10, 0x92];

impl TwoEnds {
    fn at(unix_seconds: u64) -> Self {
        let ayiya = Expected {
            identity: Address::from_octets(BROKER.octets()),
            broker: POP,
            slot: 4,
            checks_time: 1,
            ..Expected::default()
        };
        Self {
            ayiya,
            unix_seconds,
        }
    }
}

impl Expectations for TwoEnds {
    fn expected(&self, end: &LocalEnd) -> Option<&Expected> {
        (end.address == HERE).then_some(&self.ayiya)
    }

    fn sender(&self, addresses: [u8; 8]) -> Sender {
        if addresses[..4] != POP {
            Sender::Stranger
        } else if addresses[4..] == HERE {
            Sender::Broker(3)
        } else {
            Sender::OtherBroker
        }
    }

    fn has_port(&self, port: [u8; 2]) -> bool {
        port == PORT
    }

    fn comes_here(&self, address: Address) -> bool {
        address == Address::from_octets(US.octets())
    }

    fn tai_seconds(&self) -> u64 {
        self.unix_seconds + 37
    }
}

/// What the programs decide about a datagram of the broker.
fn screened(datagram: &[u8], unix_seconds: u64) -> Screened {
    let path = OuterPath {
        local: POP,
        remote: HERE,
        ..OuterPath::default()
    };
    let bytes = u32::try_from(8 + datagram.len()).expect("a datagram");
    let mut packet = six_in_four::header(&path, bytes, 0).to_vec();
    packet[9] = UDP;
    packet.extend([0x13, 0xd0]);
    packet.extend(PORT);
    packet.extend([0; 4]);
    packet.extend(datagram);
    screen(&packet[..], 0, &TwoEnds::at(unix_seconds))
}

/// The endpoint of an outer packet.
fn has_plausible_endpoint(frame: &[u8], link_bytes: u32, version: Version, direction: Direction) {
    let Some(found) = endpoint::of(frame, link_bytes, version, direction) else {
        return;
    };
    let [exact, any_local_port, any_protocol] = found.keys();
    assert_eq!(exact, found);
    assert_eq!(any_local_port.remote_port, found.remote_port);
    assert_eq!(
        (any_protocol.remote, any_protocol.protocol),
        (found.remote, 0)
    );
    let mut filter = EndpointFilter::EMPTY;
    filter.add(found.remote);
    assert!(filter.may_have(found.remote));
    if version == Version::V4 {
        assert!(found.remote.is_ipv4_mapped());
        assert_eq!(
            endpoint::remote4(frame, link_bytes, direction),
            Some(found.remote)
        );
    }
}

/// A frame of a broker of 6in4, at an uplink. Bit 1 of the first byte: the uplink has no link layer.
pub fn outer(bytes: &[u8]) {
    let Some((choice, frame)) = bytes.split_first() else {
        return;
    };
    let link_bytes = if choice & 1 == 0 { 14 } else { 0 };
    for version in [Version::V4, Version::V6] {
        for direction in [Direction::In, Direction::Out] {
            has_plausible_endpoint(frame, link_bytes, version, direction);
        }
    }
    match screen(frame, link_bytes, &TwoEnds::at(TIME)) {
        Screened::Pass => {}
        // Only packets to this host's outer address are dropped.
        Screened::Forged { .. } | Screened::Stranger { .. } => {
            let destination = link_bytes as usize + 16;
            assert_eq!(frame[destination..destination + 4], HERE);
        }
        Screened::SixInFour { slot, inner } => {
            assert_eq!((slot, inner.offset), (3, link_bytes + 20));
        }
    }
    let Some(found) = six_in_four::outer(frame, link_bytes) else {
        return;
    };
    let Outer {
        inner_offset,
        header_bytes,
        ..
    } = found;
    assert!((20..=60).contains(&header_bytes) && inner_offset == link_bytes + header_bytes);
    let Ok(accepted) = six_in_four::accept(frame, &found, 3, &OneTunnel) else {
        return;
    };
    let inner = &frame[inner_offset as usize..];
    let length = 40 + u32::from(u16::from_be_bytes([inner[4], inner[5]]));
    assert!(inner.len() >= 40 && inner[0] >> 4 == 6 && !found.is_fragment);
    assert!((41..=found.inner_bytes).contains(&length));
    assert!(inner[8..24] != US.octets() && inner[8] != 0xff);
    // Only the ECN may change.
    let changed = [inner[0] ^ accepted.start[0], inner[1] ^ accepted.start[1]];
    assert!(changed[0] == 0 && changed[1] & !0x30 == 0);
    assert_eq!(accepted.is_remarked, changed != [0, 0]);
}
