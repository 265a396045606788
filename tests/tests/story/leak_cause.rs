//! A leak alert names the sender, the cause and the cure.

use std::net::{Ipv6Addr, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::nft;
use sixxs_tests::lab::topology::{Flavour, LAN1, OUTSIDE, UPLINK};
use sixxs_tests::probe::leak::{self, Cause};
use sixxs_tests::program::Hook;
use sixxs_tests::terminal::tmux::Tmux;
use sixxs_tests::wait;

use crate::fixture::Fixture;

const ALERT_LIMIT: Duration = Duration::from_secs(10);

/// Waits for the first leak alert that matches.
fn leak_alert(fixture: &Fixture, what: &str, like: impl Fn(&Value) -> bool) -> Result<Value> {
    let find = || {
        let (_, alerts) = fixture.program.json(&["alerts"])?;
        let mut leaks = alerts.into_iter().filter(|alert| alert["kind"] == "leak");
        leaks.find(&like).context("no such leak was reported")
    };
    wait::until(what, ALERT_LIMIT, find, |_| true)
}

fn text<'a>(alert: &'a Value, key: &str) -> &'a str {
    alert[key].as_str().unwrap_or_default()
}

#[test]
fn a_bound_socket_is_to_be_bound_to_the_address() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let _daemon = fixture.start()?;
    let [tunnel, _] = fixture.lab.tunnels();
    let socket = leak::udp_socket(fixture.host(), tunnel.plan.address, Cause::Device(UPLINK))?;
    leak::send(&socket, OUTSIDE, 3, 100)?;
    let alert = leak_alert(&fixture, "the leak is reported", |alert| {
        alert["cause"] == "bound"
    })?;
    assert_eq!(alert["bound_to"], UPLINK, "{alert:#}");
    assert_eq!(alert["uid"], 0, "{alert:#}");
    assert_eq!(
        alert["cure"], "bind the program to the address, not to net0",
        "{alert:#}"
    );
    let lines = fixture.program.run_ok(&["alerts"])?.stdout;
    let line = "; why: the socket is bound to net0, and its packets are never routed to the tunnel; cure: bind";
    assert!(lines.contains(line), "{lines}");
    Ok(())
}

#[test]
fn a_rule_of_others_is_named() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let _daemon = fixture.start()?;
    let [tunnel, _] = fixture.lab.tunnels();
    let theirs = "from all fwmark 0x10 lookup main priority 100";
    fixture.host().sh(&format!("ip -6 rule add {theirs}"))?;
    let socket = leak::udp_socket(fixture.host(), tunnel.plan.address, Cause::Mark(0x10))?;
    leak::send(&socket, OUTSIDE, 3, 100)?;
    let alert = leak_alert(&fixture, "the leak is reported", |alert| {
        alert["mark"] == 0x10
    })?;
    assert_eq!(alert["cause"], "shadowed", "{alert:#}");
    assert!(
        text(&alert, "why").contains("100: from all fwmark 0x10 lookup main"),
        "{alert:#}"
    );
    let cure = text(&alert, "cure");
    let (command, _) = cure.split_once(';').context("a command first")?;
    assert_eq!(command, format!("ip -6 rule del {theirs}"));

    // The fix works.
    fixture.host().sh(command)?;
    let leaked = || -> Result<u64> {
        Ok(fixture
            .program
            .status()?
            .tunnel(tunnel.plan.interface)
            .leaks
            .redirected)
    };
    let before = leaked()?;
    leak::send(&socket, OUTSIDE, 3, 100)?;
    assert_eq!(leaked()?, before);
    Ok(())
}

#[test]
fn who_took_the_rule_away_is_named() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    let [tunnel, _] = fixture.lab.tunnels();
    let socket = leak::udp_socket(fixture.host(), tunnel.plan.address, Cause::Rules)?;
    // The daemon is stopped, so that packets leak before it restores the rules.
    daemon.signal(Signal::SIGSTOP)?;
    fixture.delete_own_rules()?;
    leak::send(&socket, OUTSIDE, 3, 100)?;
    daemon.signal(Signal::SIGCONT)?;
    let alert = leak_alert(&fixture, "the leak is reported", |alert| {
        alert["cause"] == "put_back"
    })?;
    assert!(
        text(&alert, "why").contains("was missing a moment ago"),
        "{alert:#}"
    );
    Ok(())
}

#[test]
fn a_forwarded_packet_has_its_incoming_interface() -> Result<()> {
    let spec = Spec {
        lans: true,
        ..Spec::new(Flavour::Tun)
    };
    let fixture = Fixture::with_spec(spec, Hook::Auto, "")?;
    let _daemon = fixture.start()?;
    fixture
        .host()
        .sh("ip -6 rule add iif lan1 lookup main priority 100")?;
    let [lan, _] = fixture.lab.lans()?;
    let socket = leak::udp_socket(lan, LAN1, Cause::Rules)?;
    leak::send(&socket, OUTSIDE, 3, 100)?;
    let from = |alert: &Value| alert["forwarded_from"] == "lan1";
    let alert = leak_alert(&fixture, "the leak is reported", from)?;
    assert_eq!(alert["cause"], "shadowed", "{alert:#}");
    assert!(
        alert["uid"].is_null() && alert["unit"].is_null(),
        "{alert:#}"
    );
    Ok(())
}

/// A control group that is removed at the end.
struct ControlGroup(PathBuf);

impl ControlGroup {
    /// Creates one of this name in the mounted hierarchy.
    fn named(name: &str) -> Result<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        let mounted = mounts.lines().find(|line| line.contains(" - cgroup2 "));
        let point = mounted.and_then(|line| line.split(' ').nth(4));
        let point = point.context("control groups (version 2) are mounted nowhere")?;
        let path = PathBuf::from(point).join(name);
        std::fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self(path))
    }

    /// Sends pings from the group that leak and are redirected.
    fn leaks(&self, fixture: &Fixture, address: Ipv6Addr) -> Result<()> {
        let script = "echo $$ > \"$1/cgroup.procs\"; \
                      exec ip netns exec $2 ping -6 -n -q -c 3 -i 0.2 -W 1 -I $3 $4";
        let mut sender = Command::new("sh");
        sender.args(["-c", script, "sh"]).arg(&self.0);
        sender.args([fixture.host().name(), &address.to_string()]);
        let sent = sender
            .arg(OUTSIDE.to_string())
            .stdout(Stdio::null())
            .status()?;
        ensure!(sent.success(), "put into the tunnel, it is answered");
        Ok(())
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir(&self.0) {
            eprintln!("remove {}: {error}", self.0.display());
        }
    }
}

#[test]
fn a_service_is_named() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let _daemon = fixture.start()?;
    let [tunnel, _] = fixture.lab.tunnels();
    let address: Ipv6Addr = tunnel.plan.address;
    fixture.host().sh(&format!(
        "ip -6 rule add from {address} lookup main priority 100"
    ))?;
    let unit = format!("sixxs-test-{}.service", std::process::id());
    let group = ControlGroup::named(&unit)?;
    group.leaks(&fixture, address)?;
    let alert = leak_alert(&fixture, "the leak is reported", |alert| {
        alert["unit"] == *unit
    })?;
    assert_eq!(text(&alert, "cgroup_path"), format!("/{unit}"), "{alert:#}");
    assert_eq!(
        (&alert["protocol"], &alert["cause"]),
        (&"icmpv6".into(), &"shadowed".into())
    );
    Ok(())
}

/// Users who can create control groups choose their names. Control characters in a name must not reach the
/// terminal, and bidirectional controls must not reorder text.
#[test]
fn control_characters_in_unit_names_are_escaped() -> Result<()> {
    const STEERS: [char; 5] = ['\u{1b}', '\u{7}', '\u{9b}', '\u{202e}', '\u{2066}'];
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    let [tunnel, _] = fixture.lab.tunnels();
    let address = tunnel.plan.address;
    fixture.host().sh(&format!(
        "ip -6 rule add from {address} lookup main priority 100"
    ))?;
    let tmux = Tmux::start(fixture.host(), &fixture.program, (100, 30), &[])?;
    let binary = fixture.program.binary().display();
    tmux.line(&format!("{binary} top --interval 0.5"))?;
    let steers: String = STEERS.iter().collect();
    let unit = format!("x{steers}]0;owned\u{7}-{}.service", std::process::id());
    let group = ControlGroup::named(&unit)?;
    group.leaks(&fixture, address)?;

    // JSON contains the exact name, with escapes.
    leak_alert(&fixture, "the leak is reported", |alert| {
        alert["unit"] == *unit
    })?;
    let mut texts = vec![daemon.log()];
    for command in [
        &["alerts"][..],
        &["alerts", "--json"],
        &["status"],
        &["status", "--json"],
        &["doctor"],
        &["doctor", "--json"],
        &["check"],
        &["counters", "--all"],
    ] {
        let printed = fixture.program.run(command)?;
        texts.extend([printed.stdout, printed.stderr]);
    }
    for text in &texts {
        assert!(!text.contains(STEERS), "{text:?}");
    }
    for text in &texts[..2] {
        assert!(text.contains("\\u{1b}\\u{7}\\u{9b}\\u{202e}"), "{text:?}");
    }
    let screen = tmux.until("top shows it", |screen| screen.contains("]0;owned?"))?;
    assert!(!screen.contains(STEERS), "{screen:?}");
    assert!(!tmux.asked("pane_title")?.contains("owned"));
    tmux.key("q")?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// A published port: NAT gives the container's reply the tunnel's address only after the route was selected.
/// The fix leads the reply into the tunnel.
#[test]
fn a_reply_that_nat_translated_is_explained() -> Result<()> {
    const CONTAINER: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xd0c, 0, 0, 0, 0, 0, 2);
    const PORT: u16 = 5301;
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let _daemon = fixture.start()?;
    let [tunnel, _] = fixture.lab.tunnels();
    let (host, isp) = (fixture.host(), fixture.lab.isp());
    host.ip(&format!(
        "link add ctr0 type veth peer name far0\n\
         link set far0 netns {}\n\
         link set ctr0 up\n\
         address add fd00:d0c::1/64 dev ctr0 nodad\n",
        isp.name()
    ))?;
    isp.ip(&format!(
        "link set far0 up\n\
         address add {CONTAINER}/64 dev far0 nodad\n\
         route add {OUTSIDE}/128 via fd00:d0c::1 dev far0\n"
    ))?;
    host.sh("sysctl -qw net.ipv6.conf.all.forwarding=1")?;
    nft::load(
        host,
        &format!(
            "table ip6 published {{
                chain pre {{
                    type nat hook prerouting priority dstnat
                    udp dport {PORT} dnat to [{CONTAINER}]:{PORT}
                }}
            }}"
        ),
    )?;
    let server = isp.run(|| Ok(UdpSocket::bind((CONTAINER, PORT))?))?;
    let client = fixture
        .lab
        .outside()
        .run(|| Ok(UdpSocket::bind(("::", 0))?))?;
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    }
    client.connect((tunnel.plan.address, PORT))?;
    let asks = || -> Result<()> {
        let mut buffer = [0; 8];
        client.send(b"?")?;
        let (_, asker) = server.recv_from(&mut buffer).context("it is asked")?;
        server.send_to(b"!", asker)?;
        client.recv(&mut buffer).context("it answers")?;
        Ok(())
    };
    asks()?;
    let alert = leak_alert(&fixture, "the leak is reported", |alert| {
        alert["cause"] == "translated"
    })?;
    assert_eq!(alert["forwarded_from"], "ctr0", "{alert:#}");
    let leaks = || Ok(fixture.program.status()?.tunnel("sixxs0").leaks.redirected);
    let before = wait::until("it is counted", ALERT_LIMIT, leaks, |leaks| *leaks == 1)?;
    let (_, commands) = text(&alert, "cure").split_once(": ").context("a cure")?;
    fixture.program.shell(commands)?;
    asks()?;
    assert_eq!(leaks()?, before);
    fixture.ensure_nothing_lost()
}

/// If the uplink has no global address, the kernel gives an unbound socket the address of a tunnel.
#[test]
fn an_address_that_the_kernel_chose() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let _daemon = fixture.start()?;
    let host = fixture.host();
    host.sh("ip -6 address flush dev net0 scope global")?;
    host.sh("ip -6 route replace default via fe80::fe dev net0")?;
    host.sh("ip -6 neighbour replace fe80::fe lladdr 02:00:00:00:00:fe dev net0")?;
    let socket = host.run(|| Ok(UdpSocket::bind(("::", 0))?))?;
    socket.send_to(b"?", (OUTSIDE, 9))?;
    let alert = leak_alert(&fixture, "the leak is reported", |alert| {
        alert["cause"] == "source_chosen"
    })?;
    let cure = "give net0 a global address, or bind the program to an address";
    assert_eq!(alert["cure"], cure, "{alert:#}");
    fixture.ensure_nothing_lost()
}
