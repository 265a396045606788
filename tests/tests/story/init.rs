//! `sixxs init` reads the host's tunnels, `sixxs init he` asks a server like Hurricane Electric's. Their configurations work as they
//! are.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::Result;
use sixxs_tests::broker::hurricane::Fault;
use sixxs_tests::lab::topology::{Flavour, HOST4, TIC_SERVER};
use sixxs_tests::program::{Hook, Output};

use crate::endpoint_update::{KEY, Story, USER};
use crate::fixture::Fixture;

/// Runs `sixxs init he` with these further arguments.
fn init(story: &Story, more: &[&str]) -> Result<Output> {
    let (key, ca) = (story.file("he.key"), story.file("he-ca.pem"));
    let url = format!("https://{TIC_SERVER}/tunnelInfo.php");
    let update_url = format!("https://{TIC_SERVER}/nic/update");
    let (key, ca) = (key.display().to_string(), ca.display().to_string());
    let mut arguments = vec![
        "init",
        "he",
        "--user",
        USER,
        "--key-file",
        &key,
        "--url",
        &url,
    ];
    arguments.extend(["--update-url", &update_url, "--ca", &ca]);
    arguments.extend(more);
    story.fixture.program.run(&arguments)
}

const NO_LIMIT: &str = "[connect_limit]\nconnects = 1000\n";

#[test]
fn the_account_s_tunnels_work_as_written() -> Result<()> {
    let story = Story::native(NO_LIMIT)?;
    let printed = init(&story, &[])?;
    assert_eq!(printed.code, 0, "{printed:#?}");
    println!("{}", printed.stdout);
    assert!(
        printed.stdout.contains("[[tunnel]]\nname = \"he-ipv6\""),
        "{printed:#?}"
    );
    assert!(!printed.stdout.contains(KEY), "{printed:#?}");

    // A file that exists stays as it is.
    let new = story.file("new.toml");
    let name = new.display().to_string();
    fs::write(&new, "mine")?;
    let refused = init(&story, &["--output", &name])?;
    assert_eq!(refused.code, 1, "{refused:#?}");
    assert!(
        refused.stderr.contains("it exists, and is left as it is"),
        "{refused:#?}"
    );
    assert_eq!(fs::read_to_string(&new)?, "mine");
    fs::remove_file(&new)?;
    let written = init(&story, &["--output", &name])?;
    assert_eq!(written.code, 0, "{written:#?}");
    assert_eq!(fs::read_to_string(&new)?, printed.stdout);
    assert_eq!(new.metadata()?.permissions().mode() & 0o777, 0o600);
    // A refused file costs no request.
    assert_eq!(story.server.requests().len(), 2);

    let text = fs::read_to_string(&new)?;
    story
        .fixture
        .lab
        .write_config(&text.replace("mtu = 1480", "mtu = 1280"))?;
    let daemon = story.fixture.start()?;
    story
        .fixture
        .program
        .status_until("the tunnel is up", |status| {
            let tunnel = status.tunnel("he-ipv6");
            let update = tunnel.update.as_ref();
            tunnel.is_whole()
                && update.is_some_and(|update| update.address == Some(HOST4.to_string()))
        })?;
    story.fixture.wait_for_addresses()?;
    story
        .fixture
        .ensure_outside_answered(&story.fixture.lab.tunnels()[0])?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn other_answers_get_a_sentence() -> Result<()> {
    let story = Story::native(NO_LIMIT)?;
    let say = |status, text: &str| Some(Fault::Say(status, text.to_owned()));
    for (fault, words) in [
        (say(401, "<html>"), "refuses the user name or the key"),
        (say(503, ""), "answered 503"),
        (say(302, ""), "answered 302"),
        (say(200, ""), "it is not XML"),
        (
            say(200, "<html>Login</html>"),
            "expected <tunnels>, found <html>",
        ),
        (say(200, "<tunnels/>"), "has no tunnels"),
        (
            say(200, "<tunnels><tunnel id=\"1\"/></tunnels>"),
            "expected an IPv4 address in <serverv4>",
        ),
        (Some(Fault::Flood(50_000_000)), "is too long"),
        (Some(Fault::Garbage), "talk to 203.0.113.9"),
        (Some(Fault::Close), "talk to 203.0.113.9"),
        (Some(Fault::EchoLogin), "it is not XML"),
    ] {
        story.server.misbehave(fault.clone());
        let printed = init(&story, &[])?;
        assert_eq!(printed.code, 1, "{fault:?}: {printed:#?}");
        assert!(printed.stderr.contains(words), "{fault:?}: {printed:#?}");
        assert!(printed.stdout.is_empty(), "{fault:?}: {printed:#?}");
        assert!(!printed.stderr.contains(KEY), "{fault:?}: {printed:#?}");
    }
    story.server.misbehave(None);
    fs::set_permissions(story.file("he.key"), fs::Permissions::from_mode(0o644))?;
    let printed = init(&story, &[])?;
    assert_eq!(printed.code, 1, "{printed:#?}");
    assert!(printed.stderr.contains("run `chmod o="), "{printed:#?}");
    Ok(())
}

#[test]
fn the_host_s_tunnels_work_as_written() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let root = fixture.lab.paths().base().join("root");
    fs::create_dir_all(root.join("etc/network"))?;
    let stanza = "iface he-ipv6 inet6 v4tunnel\n  address 2001:db8:7::2\n  netmask 64\n  endpoint 198.51.100.7\n";
    fs::write(root.join("etc/network/interfaces"), stanza)?;
    let root = root.display().to_string();
    let config = fixture.lab.paths().config();
    let name = config.display().to_string();
    let refused = fixture
        .program
        .run(&["init", "--root", &root, "--output", &name])?;
    assert_eq!(refused.code, 1, "{refused:#?}");
    let printed = fixture.program.run_ok(&["init", "--root", &root])?.stdout;
    println!("{printed}");
    for words in [
        "# uplinks = [\"net0\"]",
        "# sixxs0: tun, made by other software.",
        "name = \"sixxs1\"",
        "# he-ipv6: 6in4 to 198.51.100.7, made by /etc/network/interfaces, and not there now.",
        "address = \"2001:db8:7::2/64\"",
    ] {
        assert!(printed.contains(words), "{words}: {printed}");
    }
    fs::remove_file(&config)?;
    fixture
        .program
        .run_ok(&["init", "--root", &root, "--output", &name])?;
    assert_eq!(fs::read_to_string(&config)?, printed);
    let daemon = fixture.start()?;
    fixture
        .program
        .status_until("the tunnels that exist are whole", |status| {
            let is_whole = |name| status.tunnel(name).is_whole();
            is_whole("sixxs0") && is_whole("sixxs1") && status.tunnel("he-ipv6").state == "waiting"
        })?;
    for tunnel in fixture.lab.tunnels() {
        fixture.ensure_outside_answered(tunnel)?;
    }
    fixture.ensure_nothing_lost()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
