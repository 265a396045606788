use proptest::prelude::*;

use super::*;
use crate::types::Mtu;

const NOW: u64 = 1_600_000_000;
const PASSWORD: &str = "s3cret-passw0rd";

fn login(require_tls: bool) -> Login {
    Login {
        username: "ABC1-SIXXS".to_owned(),
        password: Secret::from(PASSWORD),
        require_tls,
        agent: Agent {
            name: "sixxs".to_owned(),
            version: "0.1.0".to_owned(),
            os: "Linux".to_owned(),
            release: "6.18".to_owned(),
        },
    }
}

fn any_tunnel() -> Goal {
    Goal::Parameters { tunnel_id: None }
}

fn tunnel(id: &str) -> Goal {
    Goal::Parameters {
        tunnel_id: Some(id.to_owned()),
    }
}

const AYIYA: &str = "201 Showing tunnel information for T42
TunnelId: T42
Type: ayiya
IPv6 Endpoint: 2001:db8:2ff:1::2
IPv6 POP: 2001:db8:2ff:1::1
IPv6 PrefixLength: 64
Tunnel MTU: 1428
Tunnel Name: My First Tunnel
POP Id: nlams01
IPv4 Endpoint: ayiya
IPv4 POP: 198.51.100.1
UserState: enabled
AdminState: enabled
Password: f3d47c2de40fb698e1ab15d757a09bfc
Heartbeat_Interval: 30
202 Done
";

/// Lines of both sides: `>` client, `<` server (`|` for more lines), `=` TLS starts.
const WHOLE: &str = "\
< 200 SixXS TIC Service ready
> client TIC/draft-00 sixxs/0.1.0 Linux/6.18
< 200 Client Identity accepted
> get unixtime
< 200 1600000000
> starttls
< 400 This service is not SSL enabled (yet)
> username ABC1-SIXXS
< 200 Choose your authentication challenge please
> challenge md5
< 200 4c8f0a0d3b
> authenticate md5 ANSWER
< 200 Successfully logged in
> tunnel list
< 201 Listing tunnels
| T42 2001:db8:2ff:1::2 ayiya nlams01
| 202 <tunnel_id> <ipv6_endpoint> <ipv4_endpoint> <pop_name>
> tunnel show T42
SHOW
> QUIT Thank you
";

/// Plays a dialogue, with the server's text in pieces of `size` bytes.
fn play(
    client: &mut Client,
    dialogue: &str,
    size: usize,
    end: &str,
) -> Result<Option<Outcome>, Error> {
    let show: String = AYIYA.lines().fold(String::new(), |mut text, line| {
        text.push_str(if text.is_empty() { "< " } else { "\n| " });
        text.push_str(line);
        text
    });
    let answer = answer("4c8f0a0d3b", &Secret::from(PASSWORD));
    let dialogue = dialogue.replace("SHOW", &show).replace("ANSWER", &answer);
    let mut sent: Vec<u8> = Vec::new();
    let mut outcome = None;
    for line in dialogue.lines() {
        let (who, words) = line.split_at(2);
        let actions = match who {
            "> " => {
                assert_eq!(String::from_utf8_lossy(&sent), format!("{words}\n"));
                sent.clear();
                continue;
            }
            "= " => client.tls_is_up(),
            _ => {
                assert!(sent.is_empty(), "also sent {sent:?}");
                let bytes = [words.as_bytes(), end.as_bytes()].concat();
                let mut actions = Vec::new();
                for piece in bytes.chunks(size) {
                    actions.extend(client.received(piece, NOW)?);
                }
                actions
            }
        };
        for action in actions {
            match action {
                Action::Send(bytes) => sent.extend_from_slice(&bytes),
                Action::StartTls => assert!(line.starts_with("< 200 TLS"), "{line}"),
                Action::Done(done) => outcome = Some(done),
            }
        }
    }
    Ok(outcome)
}

fn ayiya() -> Parameters {
    Parameters {
        id: "T42".to_owned(),
        kind: Kind::Ayiya,
        address: "2001:db8:2ff:1::2/64".parse().unwrap(),
        peer: "2001:db8:2ff:1::1".parse().unwrap(),
        remote4: "198.51.100.1".parse().unwrap(),
        local4: None,
        password: Some(Secret::from("f3d47c2de40fb698e1ab15d757a09bfc")),
        heartbeat_interval: std::time::Duration::from_secs(30),
        mtu: Mtu(1428),
        pop: "nlams01".to_owned(),
    }
}

#[test]
fn a_whole_dialogue_in_pieces_of_any_size() {
    for size in [1, 2, 3, 7, 4096] {
        for end in ["\n", "\r\n"] {
            let mut client = Client::new(login(false), any_tunnel()).unwrap();
            let outcome = play(&mut client, WHOLE, size, end).unwrap();
            assert_eq!(
                outcome,
                Some(Outcome::Parameters(ayiya())),
                "{size} {end:?}"
            );
            assert!(client.received(b"200 Bye\n", NOW).unwrap().is_empty());
            assert_eq!(client.closed(), None);
        }
    }
}

#[test]
fn with_tls() {
    let dialogue = WHOLE.replace(
        "< 400 This service is not SSL enabled (yet)",
        "< 200 TLS follows\n= ",
    );
    let mut client = Client::new(login(true), any_tunnel()).unwrap();
    let outcome = play(&mut client, &dialogue, 5, "\n").unwrap();
    assert_eq!(outcome, Some(Outcome::Parameters(ayiya())));
}

#[test]
fn a_tunnel_that_is_named_is_shown_without_a_list() {
    let list = WHOLE.find("> tunnel list").unwrap();
    let show = WHOLE.find("> tunnel show").unwrap();
    let dialogue = format!("{}{}", &WHOLE[..list], &WHOLE[show..]);
    let mut client = Client::new(login(false), tunnel("T42")).unwrap();
    let outcome = play(&mut client, &dialogue, 64, "\n").unwrap();
    assert_eq!(outcome, Some(Outcome::Parameters(ayiya())));

    // Another tunnel than the requested one is refused.
    let dialogue = dialogue.replace("show T42", "show T43");
    let mut client = Client::new(login(false), tunnel("T43")).unwrap();
    let error = play(&mut client, &dialogue, 64, "\n").unwrap_err();
    assert_eq!(
        error.to_string(),
        "tunnel parameters: the server sent \"T42\" instead of tunnel T43"
    );
}

#[test]
fn lists() {
    let head = &WHOLE[..WHOLE.find("> tunnel list").unwrap()];
    let tunnels = format!(
        "{head}> tunnel list\n< 201 Listing\n| T1 2001:db8::2 192.0.2.1 nlams01\n\
         | T2 2001:db8:1::2 heartbeat deham02\n| 202 Done\n> QUIT Thank you\n"
    );
    let mut client = Client::new(login(false), Goal::Tunnels).unwrap();
    let outcome = play(&mut client, &tunnels, 9, "\n").unwrap();
    let line = |id: &str, address: &str, local4: &str, pop: &str| TunnelLine {
        id: id.to_owned(),
        address: address.to_owned(),
        local4: local4.to_owned(),
        pop: pop.to_owned(),
    };
    let expected = vec![
        line("T1", "2001:db8::2", "192.0.2.1", "nlams01"),
        line("T2", "2001:db8:1::2", "heartbeat", "deham02"),
    ];
    assert_eq!(outcome, Some(Outcome::Tunnels(expected)));

    // The same list, when one tunnel is requested.
    let mut client = Client::new(login(false), any_tunnel()).unwrap();
    let error = play(&mut client, &tunnels, 9, "\n").unwrap_err();
    assert_eq!(
        error.to_string(),
        "list: the account has several tunnels; choose one by tunnel_id: T1, T2"
    );
    assert_eq!(error.class(), Class::Refused);

    let pops = format!(
        "{head}> pop list\n< 201 Listing\n| nlams01 Amsterdam\n| deham02\n| 202\n> QUIT Thank you\n"
    );
    let mut client = Client::new(login(false), Goal::Pops).unwrap();
    let Some(Outcome::Pops(pops)) = play(&mut client, &pops, 9, "\n").unwrap() else {
        panic!("no list");
    };
    let pops: Vec<_> = pops.iter().map(|p| (&p.id[..], &p.words[..])).collect();
    assert_eq!(pops, [("nlams01", "Amsterdam"), ("deham02", "")]);

    let none = format!("{head}> tunnel list\n< 201 Listing\n| 202\n> QUIT Thank you\n");
    let mut client = Client::new(login(false), any_tunnel()).unwrap();
    let error = play(&mut client, &none, 9, "\n").unwrap_err();
    assert_eq!(error.problem, Problem::NoTunnels);
}

#[test]
fn refusals() {
    let cases = [
        // (original reply, changed reply, class, message)
        (
            "200 SixXS TIC Service ready",
            "400 Down for maintenance",
            Class::Unavailable,
            "greeting: the server accepts no logins at the moment: \"Down for maintenance\"",
        ),
        (
            "200 SixXS TIC Service ready",
            "500 You connect too often",
            Class::TooOften,
            "greeting: the server refuses this host for too many connects: \"You connect too often\"",
        ),
        (
            "200 Client Identity accepted",
            "400 Too many connects\x07",
            Class::TooOften,
            "introduction: the server refuses this host for too many connects: \"Too many connects\"",
        ),
        (
            "200 1600000000",
            "200 1600000121",
            Class::Clock,
            "comparing clocks: this host's clock is 121 s behind the server's, and 120 s is the \
             most that it accepts; set it, best by NTP",
        ),
        (
            "200 1600000000",
            "200 yesterday",
            Class::Garbage,
            "comparing clocks: the server sent \"yesterday\" instead of the time",
        ),
        (
            "400 This service",
            "500 You are blocked. This service",
            Class::TooOften,
            "starting TLS: the server refuses this host for too many connects: \"You are blocked. \
             This service is not SSL enabled (yet)\"",
        ),
        (
            "200 Choose",
            "400 Unknown user, choose",
            Class::Refused,
            "user name: the server refuses: \"Unknown user, choose your authentication challenge \
             please\"",
        ),
        (
            "200 4c8f0a0d3b",
            "200",
            Class::Garbage,
            "challenge: the server sent an empty challenge",
        ),
        (
            "200 Successfully logged in",
            "400 No: authenticate md5 ANSWER",
            Class::Refused,
            "password: the server refuses: \"No: authenticate md5 …\"",
        ),
        (
            "201 Listing tunnels",
            "400 No lists today",
            Class::Refused,
            "list: the server refuses: \"No lists today\"",
        ),
        (
            "201 Listing tunnels",
            "200 Fine",
            Class::Garbage,
            "list: the server sent \"200 Fine\" instead of a list",
        ),
        (
            "T42 2001:db8:2ff:1::2 ayiya nlams01",
            "T42 2001:db8:2ff:1::2",
            Class::Garbage,
            "list: the server sent \"T42 2001:db8:2ff:1::2\" instead of a tunnel",
        ),
        (
            "200 SixXS TIC Service ready",
            "SSH-2.0-OpenSSH_9.2",
            Class::Garbage,
            "greeting: the server sent a reply without a code",
        ),
    ];
    for (instead, words, class, message) in cases {
        let dialogue = WHOLE.replacen(instead, words, 1);
        assert_ne!(dialogue, WHOLE);
        let mut client = Client::new(login(false), any_tunnel()).unwrap();
        let error = play(&mut client, &dialogue, 4096, "\n").unwrap_err();
        assert_eq!(
            (error.class(), error.to_string().as_str()),
            (class, message)
        );
    }

    let mut client = Client::new(login(true), any_tunnel()).unwrap();
    let error = play(&mut client, WHOLE, 4096, "\n").unwrap_err();
    assert_eq!(error.class(), Class::Tls);
    assert_eq!(error.stage, Stage::StartTls);
}

#[test]
fn a_repeated_password_is_not_shown() {
    let mut login = login(false);
    login.password = Secret::from("two words");
    for said in ["no two words", "no two\x07words", "no two\twords"] {
        let mut client = Client::new(login.clone(), Goal::Tunnels).unwrap();
        let error = client.received(format!("500 {said}\n").as_bytes(), NOW);
        let words = Problem::Unavailable("no …".to_owned());
        assert_eq!(error.unwrap_err().problem, words);
    }
    // No part of the password appears where the text is truncated.
    let long = format!("500 {}two words\n", "x".repeat(195));
    let mut client = Client::new(login, Goal::Tunnels).unwrap();
    let error = client.received(long.as_bytes(), NOW).unwrap_err();
    assert!(!error.to_string().contains("two"), "{error}");
}

#[test]
fn clocks_may_be_two_minutes_apart() {
    for (server, good) in [
        (NOW - 120, true),
        (NOW + 120, true),
        (NOW - 121, false),
        (NOW + 121, false),
        (0, false),
        (u64::MAX, false),
    ] {
        assert_eq!(compare_clocks(&server.to_string(), NOW).is_ok(), good);
    }
}

#[test]
fn the_answer_to_a_challenge() {
    // md5("challenge" "5f4dcc3b5aa765d61d8327deb882cf99"), computed with md5sum.
    let answer = answer("challenge", &Secret::from("password"));
    assert_eq!(
        hex_md5(&["password"]).as_str(),
        "5f4dcc3b5aa765d61d8327deb882cf99"
    );
    assert_eq!(answer.as_str(), "6d7d8d39264a6416f8d27965cc1fe8e2");
}

#[test]
fn clear_text_is_not_accepted_as_tls_data() {
    let starts = WHOLE.find("> starttls").unwrap();
    let begun = || {
        let mut client = Client::new(login(false), any_tunnel()).unwrap();
        let dialogue = format!("{}> starttls\n", &WHOLE[..starts]);
        play(&mut client, &dialogue, 4096, "\n").unwrap();
        client
    };
    let mut client = begun();
    let error = client.received(b"200 Go\n200 injected\n", NOW).unwrap_err();
    assert_eq!(error.problem, Problem::UnexpectedData);

    let mut client = begun();
    assert!(matches!(
        client.received(b"200 Go\n", NOW).unwrap()[..],
        [Action::StartTls]
    ));
    let error = client.received(b"2", NOW).unwrap_err();
    assert_eq!(error.problem, Problem::UnexpectedData);
    // The dialogue is over: a later start of TLS has no effect.
    assert!(client.tls_is_up().is_empty());
}

#[test]
fn values_cannot_end_a_line() {
    let evil = |change: fn(&mut Login)| {
        let mut login = login(false);
        change(&mut login);
        Client::new(login, Goal::Tunnels).err().unwrap().stage
    };
    assert_eq!(evil(|l| l.username = "a\nb".to_owned()), Stage::Login);
    assert_eq!(evil(|l| l.username.clear()), Stage::Login);
    assert_eq!(evil(|l| l.agent.os = "a b".to_owned()), Stage::Login);
    assert!(Client::new(login(false), tunnel("T1 T2")).is_err());
}

#[test]
fn a_server_that_closes_the_connection() {
    let mut client = Client::new(login(false), any_tunnel()).unwrap();
    client.received(b"200 Hel", NOW).unwrap();
    let error = client.closed().unwrap();
    assert_eq!(
        error.to_string(),
        "greeting: the server closed the connection"
    );
    assert_eq!(client.closed(), None);
}

#[test]
fn secrets_are_not_shown() {
    let mut client = Client::new(login(false), any_tunnel()).unwrap();
    let before = &WHOLE[..WHOLE.find("> authenticate").unwrap()];
    let last = before.rfind("< ").unwrap();
    play(&mut client, &before[..last], 4096, "\n").unwrap();
    let actions = client.received(b"200 4c8f0a0d3b\n", NOW).unwrap();
    assert_eq!(format!("{actions:?}"), "[Send(50 bytes)]");
    assert!(!format!("{:?}", login(false)).contains(PASSWORD));
    assert!(!format!("{:?}", ayiya()).contains("f3d47c2d"));
}

#[test]
fn parameters() {
    let heartbeat = AYIYA
        .replace("ayiya", "6in4-heartbeat")
        .replace("Heartbeat_Interval: 30", "Heartbeat_Interval: 0")
        .replace("Tunnel MTU: 1428\n", "");
    let sit = AYIYA
        .replace("Type: ayiya", "Type: 6in4-static")
        .replace("Endpoint: ayiya", "Endpoint: 192.0.2.10")
        .replace("Password: f3d47c2de40fb698e1ab15d757a09bfc\n", "")
        .replace("1428", "9000");
    let read = |text: &str| {
        let lines: Vec<_> = text.lines().map(|l| Zeroizing::new(l.to_owned())).collect();
        Shown(&lines[1..lines.len() - 1]).read("T42")
    };
    assert_eq!(read(AYIYA), Ok(ayiya()));
    assert_eq!(
        read(&heartbeat),
        Ok(Parameters {
            kind: Kind::Heartbeat,
            heartbeat_interval: std::time::Duration::from_secs(60),
            mtu: Mtu(1280),
            ..ayiya()
        })
    );
    assert_eq!(
        read(&sit),
        Ok(Parameters {
            kind: Kind::SixInFour,
            local4: Some("192.0.2.10".parse().unwrap()),
            password: None,
            mtu: Mtu(1480),
            ..ayiya()
        })
    );
    for (instead, words, message) in [
        (
            "UserState: enabled",
            "UserState: disabled",
            "tunnel T42 is not enabled: the server reports UserState \"disabled\", AdminState \
             \"enabled\"; enable it at the broker",
        ),
        (
            "AdminState: enabled",
            "AdminState: requested",
            "tunnel T42 is not enabled: the server reports UserState \"enabled\", AdminState \
             \"requested\"; enable it at the broker",
        ),
        (
            "UserState: enabled\n",
            "",
            "the server sent parameters without UserState",
        ),
        (
            "Type: ayiya",
            "Type: l2tp",
            "the server sent \"Type: l2tp\" instead of 6in4-static, 6in4-heartbeat or ayiya",
        ),
        (
            "Password: f3d47c2de40fb698e1ab15d757a09bfc\n",
            "",
            "the server sent parameters without Password",
        ),
        (
            "1428",
            "1279",
            "the server sent \"Tunnel MTU: 1279\" instead of 1280 to 1480",
        ),
        (
            "1428",
            "much",
            "the server sent \"Tunnel MTU: much\" instead of a number",
        ),
        (
            "Length: 64",
            "Length: 129",
            "the server sent \"129\" instead of a length of 64 to 128 bits",
        ),
        (
            "Endpoint: 2001:db8:2ff:1::2",
            "Endpoint: ::1",
            "the server sent \"IPv6 Endpoint: ::1\" instead of a global IPv6 address",
        ),
        (
            "2ff:1::2",
            "2ff:1::1",
            "the server sent \"2001:db8:2ff:1::1\" instead of another address in the /64 of 2001:db8:2ff:1::1",
        ),
        (
            "POP: 2001:db8:2ff:1::1",
            "POP: 2001:db8:ffff::1",
            "the server sent \"2001:db8:ffff::1\" instead of another address in the /64 of 2001:db8:2ff:1::2",
        ),
        (
            "IPv4 POP: 198.51.100.1",
            "IPv4 POP: 224.0.0.1",
            "the server sent \"224.0.0.1\" instead of a host's IPv4 address",
        ),
    ] {
        let problem = read(&AYIYA.replace(instead, words)).unwrap_err();
        assert_eq!(problem.to_string(), message);
    }
}

/// Replies that get far, and arbitrary replies.
fn reply() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => Just(b"200 1600000000\n".to_vec()),
        2 => Just(b"201 List\nT42 a b c\n202 End\n".to_vec()),
        1 => Just(AYIYA.as_bytes().to_vec()),
        1 => Just(b"200 TLS\n".to_vec()),
        1 => Just(b"400 no\r\n".to_vec()),
        1 => Just(vec![b'x'; 3000]),
        1 => "[2-5]0[0-9] [ -~]{0,40}\n".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..200),
        1 => "[a-zA-Z0-9 :]{0,60}\n".prop_map(String::into_bytes),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_server_is_too_strange(
        replies in prop::collection::vec((reply(), 1..64usize), 0..40),
        named in any::<bool>(),
    ) {
        let goal = if named { tunnel("T42") } else { any_tunnel() };
        let mut client = Client::new(login(false), goal).unwrap();
        let mut challenged = false;
        let hash = hex_md5(&[PASSWORD]);
        for (reply, size) in replies {
            for piece in reply.chunks(size) {
                let Ok(mut actions) = client.received(piece, NOW) else {
                    break;
                };
                if matches!(actions[..], [Action::StartTls]) {
                    actions = client.tls_is_up();
                }
                for action in actions {
                    let Action::Send(bytes) = action else { continue };
                    let sent = String::from_utf8(bytes.to_vec()).unwrap();
                    prop_assert!(!sent.contains(PASSWORD) && !sent.contains(hash.as_str()));
                    prop_assert!(sent.ends_with('\n') && sent.matches('\n').count() == 1);
                    prop_assert!(challenged || !sent.starts_with("authenticate"));
                    challenged |= sent.starts_with("challenge");
                }
                let (kept, capacity) = client.lines.buffer_size();
                prop_assert!(kept <= capacity && capacity == lines::MAX_LINE_BYTES);
                if let State::List { items, .. } = &client.state {
                    let bytes: usize = items.iter().map(|item| item.len()).sum();
                    prop_assert!(items.len() <= lines::MAX_REPLY_LINES);
                    prop_assert!(bytes <= lines::MAX_REPLY_BYTES);
                }
            }
        }
    }
}

#[test]
fn parameters_at_the_edges() {
    let read = |instead: &str, words: &str| {
        assert!(AYIYA.contains(instead), "{instead}");
        let text = AYIYA.replace(instead, words);
        let lines: Vec<_> = text.lines().map(|l| Zeroizing::new(l.to_owned())).collect();
        Shown(&lines[1..lines.len() - 1]).read("T42")
    };
    for (instead, words, is_good) in [
        ("Length: 64", "Length: 63", false),
        ("Length: 64", "Length: 128", true),
        ("Tunnel MTU: 1428", "Tunnel MTU: 1280", true),
        ("Tunnel MTU: 1428", "Tunnel MTU:", true),
        ("Endpoint: 2001:db8:2ff:1::2", "Endpoint: ::", false),
        ("Endpoint: 2001:db8:2ff:1::2", "Endpoint: ff02::1", false),
        ("Endpoint: 2001:db8:2ff:1::2", "Endpoint: fe80::2", false),
        (
            "Endpoint: 2001:db8:2ff:1::2",
            "Endpoint: ::ffff:192.0.2.1",
            false,
        ),
        ("2001:db8:2ff:1::", "fd00::", true),
        ("IPv4 POP: 198.51.100.1", "IPv4 POP: 0.0.0.0", false),
        ("IPv4 POP: 198.51.100.1", "IPv4 POP: 255.255.255.255", false),
        ("UserState: enabled", "UserState: ENABLED", true),
        ("Type: ayiya", "type : AYIYA", true),
    ] {
        assert_eq!(read(instead, words).is_ok(), is_good, "{words}");
    }
    for (seconds, expected) in [("1", 1), ("0", 60), ("3600", 3600), ("3601", 3600)] {
        let words = format!("Heartbeat_Interval: {seconds}");
        let read = read("Heartbeat_Interval: 30", &words).unwrap();
        assert_eq!(read.heartbeat_interval.as_secs(), expected, "{seconds}");
    }
    for (mtu, expected) in [("1479", 1479), ("1480", 1480), ("1481", 1480), ("0", 1280)] {
        let read = read("Tunnel MTU: 1428", &format!("Tunnel MTU: {mtu}")).unwrap();
        assert_eq!(read.mtu, Mtu(expected));
    }
}

#[test]
fn kinds_are_read_as_they_are_printed() {
    for (kind, name, is_signed) in [
        (Kind::SixInFour, "6in4-static", false),
        (Kind::Heartbeat, "6in4-heartbeat", true),
        (Kind::Ayiya, "ayiya", true),
    ] {
        assert_eq!(kind.to_string(), name);
        assert_eq!(name.to_uppercase().parse(), Ok(kind));
        assert_eq!(kind.is_signed(), is_signed, "{name}");
    }
    assert!("l2tp".parse::<Kind>().is_err());
}

#[test]
fn replies_begin_with_a_code() {
    for (line, expected) in [
        ("200 ok", Some((200, "ok"))),
        ("200", Some((200, ""))),
        ("200  two", Some((200, " two"))),
        ("100 a", Some((100, "a"))),
        ("599 a", Some((599, "a"))),
        ("099 a", None),
        ("600 a", None),
        ("200ok", None),
        ("20 ok", None),
        ("+20 a", None),
        ("", None),
        ("éa", None),
    ] {
        assert_eq!(parse(line).ok(), expected, "{line}");
    }
    for (line, expected) in [
        ("202", true),
        ("202 done", true),
        ("2020", false),
        ("201", false),
    ] {
        assert_eq!(is_end(line), expected, "{line}");
    }
}

#[test]
fn the_clock_that_is_ahead_is_known() {
    for (server, expected) in [(NOW - 500, 500), (NOW + 500, -500), (u64::MAX, -i64::MAX)] {
        let problem = compare_clocks(&server.to_string(), NOW).unwrap_err();
        assert_eq!(problem, Problem::Clock { ahead: expected });
    }
    assert!(matches!(
        compare_clocks("noon", NOW),
        Err(Problem::Garbage(_))
    ));
}
