use super::*;

const START: u64 = 1_700_000_000;

fn identity() -> Identity {
    Identity {
        address: "2001:db8:a::2".parse().unwrap(),
        peer: "2001:db8:a::1".parse().unwrap(),
        password: Secret::from("secret"),
        interval: Duration::from_secs(60),
    }
}

fn at(seconds: u64) -> Now {
    Now {
        elapsed: Duration::from_secs(seconds),
        unix_seconds: START + seconds,
    }
}

/// The broker's end.
fn broker() -> Sealer {
    let Identity { peer, password, .. } = identity();
    Sealer::new(peer, &password)
}

fn datagram(packet: &[u8], seconds: u64) -> Vec<u8> {
    let mut datagram = vec![0; HEADER_BYTES];
    datagram.extend_from_slice(packet);
    broker().forward(&mut datagram, START + seconds);
    datagram
}

fn packet(from: &str, last: u8) -> Vec<u8> {
    let mut packet = vec![0; 48];
    packet[0] = 0x60;
    packet[5] = 8;
    packet[6] = 17;
    packet[8..24].copy_from_slice(&from.parse::<Ipv6Addr>().unwrap().octets());
    packet[47] = last;
    packet
}

/// All actions in these seconds: `b`eats, `p`robes and `d`oubts.
fn run(session: &mut Session, from: u64, to: u64) -> Vec<(u64, char)> {
    let mut done = Vec::new();
    for second in from..to {
        let now = at(second);
        let due = session.due(now.elapsed);
        let before = done.len();
        while let Some(action) = session.poll(now) {
            done.push(match action {
                Action::LocateAgain => (second, 'd'),
                Action::Send(datagram) if datagram.len() == HEADER_BYTES => (second, 'b'),
                Action::Send(_) => (second, 'p'),
            });
        }
        if done.len() > before {
            assert!(due <= now.elapsed, "done at {second}, due at {due:?}");
        }
        assert!(session.due(now.elapsed) > now.elapsed, "busy at {second}");
    }
    done
}

fn of(done: &[(u64, char)], what: char) -> Vec<u64> {
    let those = done.iter().filter(|(_, kind)| *kind == what);
    those.map(|(second, _)| *second).collect()
}

#[test]
fn an_hour_with_a_broker_that_answers() {
    let mut session = Session::new(&identity(), Duration::ZERO);
    assert!(!session.is_answering(Duration::ZERO));
    let mut done = run(&mut session, 0, 1);
    let answer = datagram(&packet("2001:db8:a::1", 0), 0);
    session.receive(&answer, at(0)).unwrap();
    for minute in 0..60 {
        let second = minute * 60;
        let ping = datagram(&packet("2001:db8:a::1", 1), second);
        let received = session.receive(&ping, at(second)).unwrap();
        assert!(matches!(received, Received::Packet(p) if p.len() == 48));
        done.extend(run(&mut session, second.max(1), second + 60));
        assert!(session.is_answering(Duration::from_secs(second + 59)));
    }
    assert_eq!(of(&done, 'b')[..5], [0, 1, 2, 62, 122]);
    assert_eq!(of(&done, 'b').len(), 62);
    assert_eq!(of(&done, 'p'), [0]);
    assert_eq!(of(&done, 'd'), []);
}

#[test]
fn a_silent_broker_is_located_again_at_growing_intervals() {
    let mut session = Session::new(&identity(), Duration::ZERO);
    let done = run(&mut session, 0, 7200);
    assert_eq!(of(&done, 'p')[..6], [0, 1, 3, 7, 15, 31]);
    assert_eq!(of(&done, 'd')[..5], [30, 90, 210, 450, 930]);
    assert_eq!(of(&done, 'd').len(), 15);
    assert!(done.len() < 450, "{}", done.len());
}

#[test]
fn silence_begins_and_ends() {
    let mut session = Session::new(&identity(), Duration::ZERO);
    run(&mut session, 0, 10);
    session
        .receive(&datagram(&packet("2001:db8:a::1", 0), 10), at(10))
        .unwrap();
    let done = run(&mut session, 10, 300);
    assert_eq!(of(&done, 'p')[..3], [140, 141, 143]);
    assert_eq!(of(&done, 'd'), [170, 230]);
    assert!(!session.is_answering(Duration::from_secs(150)));
    session
        .receive(&datagram(&packet("2001:db8:a::1", 0), 300), at(300))
        .unwrap();
    assert!(session.is_answering(Duration::from_secs(300)));
    assert_eq!(of(&run(&mut session, 300, 400), 'p'), []);
}

#[test]
fn a_change_of_address_is_announced_at_once() {
    let mut session = Session::new(&identity(), Duration::ZERO);
    run(&mut session, 0, 5);
    session
        .receive(&datagram(&packet("2001:db8:a::1", 0), 4), at(4))
        .unwrap();
    assert_eq!(of(&run(&mut session, 5, 30), 'b'), []);
    session.restart(Duration::from_secs(30));
    // Datagrams to the old address prove nothing about the new one, and are no reason for an alarm.
    assert!(session.is_answering(Duration::from_secs(31)));
    let done = run(&mut session, 30, 40);
    assert_eq!(of(&done, 'b'), [30, 31, 32]);
    assert_eq!(of(&done, 'p'), [30, 31, 33, 37]);
}

#[test]
fn refused_datagrams_are_counted_and_do_not_end_silence() {
    let mut session = Session::new(&identity(), Duration::ZERO);
    let good = datagram(&packet("2001:db8:ffff::9", 0), 5);
    assert!(session.receive(&good, at(5)).is_ok());
    for (datagram, fault) in [
        (good.clone(), DropReason::Repeat),
        (good[..90].to_vec(), DropReason::Signature),
        (vec![0; 10], DropReason::Short),
        (vec![0; 2000], DropReason::Header),
        (
            datagram(&packet("2001:db8:a::2", 0), 100),
            DropReason::OwnSource,
        ),
        (datagram(&[0x60], 100), DropReason::Payload),
        (datagram(&packet("2001:db8:a::1", 0), 300), DropReason::Time),
    ] {
        assert_eq!(session.receive(&datagram, at(100)), Err(fault));
        assert_eq!(session.faults()[fault as usize], 1, "{fault:?}");
    }
    assert_eq!(session.silent_since(), Duration::from_secs(5));
}

#[test]
fn replies_to_probes_do_not_reach_the_host() {
    let mut session = Session::new(&identity(), Duration::ZERO);
    run(&mut session, 0, 1);
    let Identity { address, peer, .. } = identity();
    let reply = probe::answer(address, peer, 1);
    let reply = datagram(&reply, 1);
    let received = session.receive(&reply, at(1));
    assert_eq!(received, Ok(Received::Alive));
    assert!(session.is_answering(Duration::from_secs(1)));
}

/// The broker must not notice a restart.
#[test]
fn a_session_that_goes_on_waits_for_its_next_keepalive() {
    let mut session = Session::new(&identity(), Duration::from_secs(100));
    assert!(!session.has_received());
    assert_eq!(session.silent_since(), Duration::from_secs(100));
    session.resume(Duration::from_secs(40), Duration::from_secs(130));
    assert!(session.has_received());
    assert_eq!(session.silent_since(), Duration::from_secs(40));
    assert_eq!(session.keepalive_due(), Duration::from_secs(130));
    assert!(session.is_answering(Duration::from_secs(169)));
    assert!(!session.is_answering(Duration::from_secs(170)));
    let done = run(&mut session, 100, 200);
    assert_eq!(of(&done, 'b'), [130, 190]);
    // The silence began at the last datagram, before the restart.
    assert_eq!(of(&done, 'p')[..3], [170, 171, 173]);
    assert_eq!(of(&done, 'd'), [] as [u64; 0]);
}

#[test]
fn a_first_datagram_proves_that_the_broker_is_there() {
    let mut session = Session::new(&identity(), Duration::ZERO);
    assert_eq!(session.address(), identity().address);
    assert!(!session.has_received());
    let keepalive = broker().keepalive(START + 5);
    assert_eq!(session.receive(&keepalive, at(5)), Ok(Received::Alive));
    assert!(session.has_received());
    assert_eq!(session.silent_since(), Duration::from_secs(5));
    // It seals as this end.
    let Identity {
        address, password, ..
    } = identity();
    let opener = Opener::new(address, &password);
    assert!(
        opener
            .open(&session.sealer().keepalive(START), START)
            .is_ok()
    );
}
