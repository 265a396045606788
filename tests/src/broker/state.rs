//! The state of a PoP, with the decision about every datagram and packet. It has no sockets: bytes and times
//! are arguments, and packets to send are results.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::counts::Counts;
use super::heartbeat::Heartbeat;
use super::impairment::Lane;
use super::session::{Datagram, HEADROOM, Protocol, Session, Setup};
use super::{Kind, ayiya, ping, protocol41};

/// The historical broker's ping interval, and the time without datagrams after which a tunnel is down.
const PING_INTERVAL: Duration = Duration::from_secs(60);
const SILENCE_LIMIT: Duration = Duration::from_secs(120);

/// A captured datagram.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Time of the capture.
    pub at: Instant,
    /// Whether it came from the client; else it goes to the client.
    pub received: bool,
    /// The client's endpoint; the port is 0 for protocol 41.
    pub endpoint: SocketAddr,
    /// The UDP payload, or the payload of protocol 41.
    pub bytes: Vec<u8>,
}

/// The whole state of a PoP. [`State::forget`] removes only the endpoints and keeps the rest, like a database
/// when its daemon restarts.
#[derive(Debug)]
pub(crate) struct State {
    sessions: Vec<Session>,
    by_address: HashMap<Ipv6Addr, usize>,
    /// Counters of datagrams that belong to no tunnel.
    nobody: Counts,
    pub(crate) ping_interval: Duration,
    pub(crate) silence_limit: Duration,
    pub(crate) up: Lane<Datagram>,
    pub(crate) down: Lane<Datagram>,
    recorded: Vec<Recorded>,
    recording: usize,
}

impl State {
    pub(crate) fn new(setups: Vec<Setup>) -> Self {
        let addresses = setups.iter().map(|setup| setup.address).zip(0..);
        Self {
            by_address: addresses.collect(),
            sessions: setups.into_iter().map(Session::new).collect(),
            nobody: Counts::default(),
            ping_interval: PING_INTERVAL,
            silence_limit: SILENCE_LIMIT,
            up: Lane::default(),
            down: Lane::default(),
            recorded: Vec::new(),
            recording: 0,
        }
    }

    /// Simulates a restart of the daemon.
    pub(crate) fn forget(&mut self) {
        self.sessions.iter_mut().for_each(Session::forget);
    }

    pub(crate) fn sessions(&self) -> &[Session] {
        &self.sessions
    }

    pub(crate) fn session_mut(&mut self, address: Ipv6Addr) -> Option<&mut Session> {
        let index = *self.by_address.get(&address)?;
        self.sessions.get_mut(index)
    }

    /// The sum over all tunnels and the datagrams without one.
    pub(crate) fn counts(&self) -> Counts {
        let mut sum = self.nobody;
        for session in &self.sessions {
            sum += session.counts;
        }
        sum
    }

    /// Captures the next `most` datagrams in either direction; discards earlier captures.
    pub(crate) fn record(&mut self, most: usize) {
        self.recorded.clear();
        self.recording = most;
    }

    pub(crate) fn recorded(&self) -> Vec<Recorded> {
        self.recorded.clone()
    }

    /// Whether datagrams are forwarded directly: there is no capture, and the path is not impaired.
    pub(crate) fn is_straight(&self) -> bool {
        self.recorded.len() >= self.recording && self.up.is_idle() && self.down.is_idle()
    }

    pub(crate) fn note(&mut self, datagram: &Datagram, received: bool, now: Instant) {
        if self.recorded.len() < self.recording {
            self.recorded.push(Recorded {
                at: now,
                received,
                endpoint: datagram.endpoint,
                bytes: datagram.bytes.clone(),
            });
        }
    }

    /// Handles a datagram from a client; returns its inner packet if it is valid and has to be forwarded.
    pub(crate) fn arrived<'a>(
        &mut self,
        datagram: Datagram<&'a [u8]>,
        unix_seconds: u64,
        now: Instant,
    ) -> Option<&'a [u8]> {
        let packet = match datagram.protocol {
            Protocol::Ayiya => self.ayiya(datagram, unix_seconds, now),
            Protocol::Heartbeat => {
                self.heartbeat(datagram, unix_seconds, now);
                None
            }
            Protocol::Protocol41 => self.protocol41(datagram, now),
        };
        let (index, packet) = packet?;
        let session = &mut self.sessions[index];
        session.counts.forwards += 1;
        let Setup { address, peer, .. } = session.setup;
        if ping::is_answer(packet, address, peer) {
            session.counts.pings_answered += 1;
            return None;
        }
        session.counts.delivered += 1;
        session.counts.delivered_bytes += packet.len() as u64;
        Some(packet)
    }

    fn ayiya<'a>(
        &mut self,
        datagram: Datagram<&'a [u8]>,
        unix_seconds: u64,
        now: Instant,
    ) -> Option<(usize, &'a [u8])> {
        let Some(header) = ayiya::header(datagram.bytes) else {
            self.nobody.bad_form += 1;
            return None;
        };
        let index = self.by_address.get(&header.identity).copied();
        let session = index.and_then(|index| self.sessions.get_mut(index));
        let Some(session) = session.filter(|session| session.setup.kind == Kind::Ayiya) else {
            self.nobody.bad_identity += 1;
            return None;
        };
        if !header.is_recent(unix_seconds) {
            session.counts.bad_time += 1;
            return None;
        }
        if !session.key.signed(datagram.bytes) {
            session.counts.bad_signature += 1;
            return None;
        }
        let payload = &datagram.bytes[ayiya::HEADER_BYTES..];
        if !ayiya::payload_fits(&header, payload) {
            session.counts.bad_payload += 1;
            return None;
        }
        session.update_endpoint(datagram.endpoint, now);
        match header.operation {
            ayiya::NOOP => session.counts.heartbeats += 1,
            // A forward needs a packet. The receiver checks the packet's length.
            ayiya::FORWARD if header.next_header == ayiya::IPV6 => return Some((index?, payload)),
            _ => session.counts.other_operations += 1,
        }
        None
    }

    fn heartbeat(&mut self, datagram: Datagram<&[u8]>, unix_seconds: u64, now: Instant) {
        let (Some(heartbeat), IpAddr::V4(source)) =
            (Heartbeat::read(datagram.bytes), datagram.endpoint.ip())
        else {
            self.nobody.bad_form += 1;
            return;
        };
        let session = self
            .session_mut(heartbeat.tunnel)
            .filter(|session| session.setup.kind == Kind::Heartbeat);
        let Some(session) = session else {
            self.nobody.bad_identity += 1;
            return;
        };
        let fault = if !heartbeat.is_recent(unix_seconds) {
            &mut session.counts.bad_time
        } else if !heartbeat.is_signed(&session.setup.password) {
            &mut session.counts.bad_signature
        } else if !heartbeat.is_from(source) {
            &mut session.counts.bad_source
        } else {
            // Protocol 41 has no ports.
            session.update_endpoint(SocketAddr::new(source.into(), 0), now);
            &mut session.counts.heartbeats
        };
        *fault += 1;
    }

    fn protocol41<'a>(
        &mut self,
        datagram: Datagram<&'a [u8]>,
        now: Instant,
    ) -> Option<(usize, &'a [u8])> {
        let packet = datagram.bytes;
        let Some((source, _)) = protocol41::addresses(packet) else {
            self.nobody.bad_form += 1;
            return None;
        };
        let index = self.owner(source).filter(|index| {
            let kind = self.sessions[*index].setup.kind;
            matches!(kind, Kind::SixInFour | Kind::Heartbeat)
        });
        let Some(index) = index else {
            self.nobody.bad_identity += 1;
            return None;
        };
        let session = &mut self.sessions[index];
        if session.endpoint.map(|endpoint| endpoint.ip()) != Some(datagram.endpoint.ip()) {
            session.counts.bad_source += 1;
            return None;
        }
        // Traffic keeps a tunnel up, but only a heartbeat brings it up again.
        if session.up {
            session.last_received = Some(now);
        }
        Some((index, packet))
    }

    /// The tunnel to which this address belongs, by the longest prefix.
    fn owner(&self, address: Ipv6Addr) -> Option<usize> {
        if let Some(index) = self.by_address.get(&address) {
            return Some(*index);
        }
        let bits = address.to_bits();
        let prefixes = self
            .sessions
            .iter()
            .enumerate()
            .flat_map(|(index, session)| {
                let prefixes = session.setup.prefixes.iter();
                prefixes.map(move |(prefix, length)| (index, prefix.to_bits(), u32::from(*length)))
            });
        let matching = prefixes.filter(|(_, prefix, length)| {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            bits & mask == prefix & mask
        });
        let longest = matching.max_by_key(|(_, _, length)| *length);
        longest.map(|(index, _, _)| index)
    }

    /// Encapsulates a packet, which starts with [`HEADROOM`] free bytes, for its client.
    pub(crate) fn leaving<'a>(
        &mut self,
        packet: &'a mut [u8],
        unix_seconds: u64,
    ) -> Option<Datagram<&'a [u8]>> {
        // No tunnel owns the kernel's own multicast and neighbour discovery packets.
        let (_, destination) = protocol41::addresses(packet.get(HEADROOM..)?)?;
        let index = self.owner(destination)?;
        let session = &mut self.sessions[index];
        let bytes = packet.len() - HEADROOM;
        let datagram = session.wrap(packet, unix_seconds);
        if datagram.is_none() {
            session.counts.unsent += 1;
        } else {
            session.counts.sent += 1;
            session.counts.sent_bytes += bytes as u64;
        }
        datagram
    }

    /// Marks silent tunnels as down, and pings the others when a ping is due.
    pub(crate) fn tick(&mut self, unix_seconds: u64, now: Instant, out: &mut Vec<Datagram>) {
        for session in &mut self.sessions {
            if session.setup.kind != Kind::SixInFour
                && session.up
                && session
                    .last_received
                    .is_none_or(|received| now >= received + self.silence_limit)
            {
                session.up = false;
                session.counts.went_down += 1;
            }
            if !session.up {
                session.next_ping = None;
                continue;
            }
            let due = *session.next_ping.get_or_insert(now + self.ping_interval);
            if now >= due {
                session.next_ping = Some(now + self.ping_interval);
                let Setup { address, peer, .. } = session.setup;
                session.pings = session.pings.wrapping_add(1);
                let request = ping::request(peer, address, session.pings);
                session.counts.pings_sent += 1;
                let mut request = with_headroom(&request);
                let datagram = session.wrap(&mut request, unix_seconds);
                out.extend(datagram.map(|datagram| datagram.kept()));
            }
        }
    }

    /// Reschedules every tunnel's next ping, by the present interval.
    pub(crate) fn replan_pings(&mut self) {
        for session in &mut self.sessions {
            session.next_ping = None;
        }
    }

    /// The next time at which [`State::tick`] or a lane has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let sessions = self.sessions.iter().filter(|session| session.up);
        let pings = sessions.clone().filter_map(|session| session.next_ping);
        let silences = sessions
            .filter_map(|session| session.last_received)
            .map(|received| received + self.silence_limit);
        let lanes = [self.up.deadline(), self.down.deadline()];
        pings
            .chain(silences)
            .chain(lanes.into_iter().flatten())
            .min()
    }
}

fn with_headroom(packet: &[u8]) -> Vec<u8> {
    [&[0; HEADROOM], packet].concat()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::ayiya::Key;
    use super::super::heartbeat;
    use super::*;

    const NOW: u64 = 1_600_000_000;
    const OUTSIDE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 9);

    fn setup(kind: Kind, number: u16) -> Setup {
        let net = Ipv6Addr::new(0x2001, 0xdb8, number, 0, 0, 0, 0, 0);
        Setup {
            kind,
            address: Ipv6Addr::from_bits(net.to_bits() + 2),
            peer: Ipv6Addr::from_bits(net.to_bits() + 1),
            prefixes: vec![(net, 64)],
            password: format!("password {number}"),
            registered: Some(Ipv4Addr::new(192, 0, 2, 10)),
        }
    }

    fn endpoint(last: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], port))
    }

    fn datagram(protocol: Protocol, endpoint: SocketAddr, bytes: Vec<u8>) -> Datagram {
        Datagram {
            protocol,
            endpoint,
            bytes,
        }
    }

    fn leaving(state: &mut State, packet: &[u8]) -> Option<Datagram> {
        let mut packet = with_headroom(packet);
        state.leaving(&mut packet, NOW).map(|sent| sent.kept())
    }

    fn heartbeat(setup: &Setup, time: u64) -> Vec<u8> {
        let key = Key::of(&setup.password);
        let operation = (ayiya::NOOP, ayiya::NONE);
        ayiya::seal(&key, setup.address, time, operation, &[])
    }

    #[test]
    fn ayiya_follows_the_client_and_forgets_a_silent_one() {
        let setup = setup(Kind::Ayiya, 1);
        let mut state = State::new(vec![setup.clone()]);
        let start = Instant::now();
        let packet = ping::request(OUTSIDE, setup.address, 1);
        assert_eq!(leaving(&mut state, &packet), None);
        for (second, from) in [(0, endpoint(10, 4000)), (60, endpoint(10, 4001))] {
            let heartbeat = datagram(Protocol::Ayiya, from, heartbeat(&setup, NOW));
            let now = start + Duration::from_secs(second);
            assert_eq!(state.arrived(heartbeat.lent(), NOW, now), None);
            let sent = leaving(&mut state, &packet).unwrap();
            assert_eq!((sent.protocol, sent.endpoint), (Protocol::Ayiya, from));
            assert_eq!(&sent.bytes[ayiya::HEADER_BYTES..], packet);
            assert!(Key::of(&setup.password).signed(&sent.bytes));
            assert_eq!(ayiya::header(&sent.bytes).unwrap().identity, setup.peer);
        }
        let mut out = Vec::new();
        for (second, up) in [(61, true), (179, true), (180, false)] {
            let now = start + Duration::from_secs(second);
            state.tick(NOW, now, &mut out);
            assert_eq!(state.sessions()[0].up, up, "after {second} s");
        }
        assert_eq!(leaving(&mut state, &packet), None);
        let counts = state.counts();
        assert_eq!((counts.heartbeats, counts.endpoint_changes), (2, 1));
        assert_eq!((counts.sent, counts.unsent, counts.went_down), (2, 2, 1));
        assert_eq!((counts.pings_sent, out.len()), (1, 1));
    }

    #[test]
    fn every_fault_has_its_count() {
        let (setup, other) = (setup(Kind::Ayiya, 1), setup(Kind::Ayiya, 2));
        let mut state = State::new(vec![setup.clone()]);
        let key = Key::of(&setup.password);
        let seal = |identity, time, operation, payload: &[u8]| {
            ayiya::seal(&key, identity, time, operation, payload)
        };
        let forward = (ayiya::FORWARD, ayiya::IPV6);
        let forged = ayiya::seal(&Key::of("x"), setup.address, NOW, forward, &[0x60; 40]);
        for bytes in [
            vec![0; 60],
            seal(other.address, NOW, forward, &[0x60; 40]),
            seal(setup.address, NOW - 121, forward, &[0x60; 40]),
            seal(setup.address, NOW, forward, &[0x45; 40]),
            forged,
        ] {
            let datagram = datagram(Protocol::Ayiya, endpoint(66, 6), bytes);
            assert_eq!(state.arrived(datagram.lent(), NOW, Instant::now()), None);
        }
        let expected = Counts {
            bad_form: 1,
            bad_identity: 1,
            bad_time: 1,
            bad_payload: 1,
            bad_signature: 1,
            ..Counts::default()
        };
        assert_eq!((state.counts(), expected.bad()), (expected, 5));
        assert_eq!(state.sessions()[0].endpoint, None);
    }

    #[test]
    fn protocol_41_only_from_the_tunnel_s_endpoint() {
        let fixed = setup(Kind::SixInFour, 1);
        let moving = setup(Kind::Heartbeat, 2);
        let mut state = State::new(vec![fixed.clone(), moving.clone()]);
        let now = Instant::now();
        let from = |setup: &Setup, last| {
            let inner = ping::request(setup.address, OUTSIDE, 1);
            datagram(Protocol::Protocol41, endpoint(last, 0), inner)
        };
        assert!(state.arrived(from(&fixed, 10).lent(), NOW, now).is_some());
        assert!(state.arrived(from(&fixed, 11).lent(), NOW, now).is_none());
        assert!(state.arrived(from(&moving, 11).lent(), NOW, now).is_none());
        let to = ping::request(OUTSIDE, moving.address, 1);
        assert_eq!(leaving(&mut state, &to), None);
        for (last, literal) in [(11, "192.0.2.12"), (11, "sender"), (12, "192.0.2.12")] {
            let heartbeat = heartbeat::write(moving.address, literal, NOW, &moving.password);
            let heartbeat = datagram(
                Protocol::Heartbeat,
                endpoint(last, 999),
                heartbeat.into_bytes(),
            );
            assert_eq!(state.arrived(heartbeat.lent(), NOW, now), None);
        }
        assert!(state.arrived(from(&moving, 11).lent(), NOW, now).is_none());
        assert!(state.arrived(from(&moving, 12).lent(), NOW, now).is_some());
        let sent = leaving(&mut state, &to).unwrap();
        assert_eq!((sent.endpoint, sent.bytes), (endpoint(12, 0), to));
        let counts = state.counts();
        assert_eq!((counts.heartbeats, counts.endpoint_changes), (2, 1));
        assert_eq!((counts.bad_source, counts.delivered), (4, 2));
        state.forget();
        assert!(state.arrived(from(&fixed, 10).lent(), NOW, now).is_some());
        assert!(state.arrived(from(&moving, 12).lent(), NOW, now).is_none());
    }
}
