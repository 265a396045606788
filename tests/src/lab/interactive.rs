//! Owns the interactive lab: the commands of `sixxs-lab`. All of them use the one interactive
//! lab, whose namespaces have fixed names (`sixxs-host`…).

use std::fmt::Write as _;
use std::os::unix::process::CommandExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::broker::Kind;
use crate::lab::dirs::{INTERACTIVE, Paths};
use crate::lab::netns::Namespace;
use crate::lab::topology::{OUTSIDE, TUNNELS, TunnelPlan, UPLINK};
use crate::lab::{Lab, Spec};
use crate::probe::PingStream;
use crate::probe::leak::{self, Cause};
use crate::probe::service::Services;
use crate::program::{Hook, Program};
use crate::terminal::interrupt::Interrupt;
use crate::terminal::screen::Screen;

/// Interval of the demonstration's pings and screen updates.
const TICK: Duration = Duration::from_secs(1);

/// A lab with two tunnels from AICCU configuration files: one AYIYA, one 6in4 with a heartbeat. The program
/// logs in at the broker and makes the tunnels itself.
fn interactive_lab() -> Result<Lab> {
    let lab = Lab::new(Spec {
        interactive: true,
        ..Spec::native([Kind::Ayiya, Kind::Heartbeat])
    })?;
    lab.write_config(&lab.write_aiccu_confs("", true)?)?;
    Ok(lab)
}

/// TCP and discard services on both sides, and UDP echo on the host, for manual tests and for leaks.
fn services(lab: &Lab) -> Result<[Services; 2]> {
    let addresses = TUNNELS.each_ref().map(|plan| plan.address);
    Ok([
        Services::start(lab.outside(), &[])?,
        Services::start(lab.host(), &addresses)?,
    ])
}

fn interactive_host() -> Result<Namespace> {
    Namespace::open("sixxs-host")
        .context("no lab is up: start one with `sixxs-lab up` or `sixxs-lab demo`")
}

/// The shortest command for this program.
fn myself() -> String {
    let path = std::env::current_exe().unwrap_or_else(|_| "sixxs-lab".into());
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here)
        .unwrap_or(&path)
        .display()
        .to_string()
}

/// Builds the lab, prints how to use it, and keeps it until ctrl-C.
pub fn up() -> Result<()> {
    let mut interrupt = Interrupt::block()?;
    let lab = interactive_lab()?;
    let _services = services(&lab)?;
    let me = myself();
    let [first, _] = &TUNNELS;
    println!("The lab is up; ctrl-C takes it down. In another terminal, as root:");
    let hints = [
        (
            "ip netns exec sixxs-host bash".to_owned(),
            "the host (also -outside, -isp, -core, -pop0, -pop1)",
        ),
        (
            format!("ip netns exec sixxs-outside ping {}", first.address),
            "no answer without the daemon",
        ),
        (
            format!("{me} sixxs run"),
            "the daemon, with the configuration below",
        ),
        (
            format!("{me} sixxs status"),
            "and any other of its commands",
        ),
        (format!("{me} leak"), "a leak on purpose"),
        (
            "ip netns exec sixxs-isp nft list counters".to_owned(),
            "what the ISP dropped",
        ),
    ];
    for (line, what) in hints {
        println!("  {line}\n      {what}");
    }
    println!("configuration: {}", lab.paths().config().display());
    interrupt.wait(None)?;
    println!("taking the lab down");
    end(&lab)
}

/// Builds the lab, runs the daemon in it and shows the state, until ctrl-C or for some seconds.
pub fn demo(seconds: Option<u64>) -> Result<()> {
    let mut interrupt = Interrupt::block()?;
    let lab = interactive_lab()?;
    let _services = services(&lab)?;
    let program = Program::new(&lab, Hook::Auto)?;
    let mut daemon = program.start()?;
    let streams = TUNNELS.each_ref().map(|plan| {
        let stream = PingStream::start(lab.outside(), plan.address, TICK)?;
        Ok::<_, anyhow::Error>((plan, stream))
    });
    let [first, second] = streams;
    let streams = [first?, second?];
    let end_at = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut screen = Screen::open();
    let ended = loop {
        screen.draw(&picture(&lab, &program, &streams, screen.size())?);
        let next = Instant::now() + TICK;
        if interrupt.wait(Some(end_at.map_or(next, |end_at| end_at.min(next))))?
            || end_at.is_some_and(|end_at| Instant::now() >= end_at)
        {
            break Ok(());
        }
        if !daemon.is_running()? {
            break Err(anyhow::anyhow!(
                "sixxs run ended by itself:\n{}",
                daemon.log()
            ));
        }
    };
    drop(screen);
    for (plan, stream) in streams {
        let pings = stream.stop()?;
        println!(
            "{}: {} pings sent, {} answered",
            plan.address, pings.sent, pings.answered
        );
    }
    println!(
        "the ISP dropped {} packets; taking everything down",
        lab.dropped_by_isp()?
    );
    if ended.is_ok() {
        let code = daemon.stop()?;
        if code != 0 {
            bail!("sixxs run: exit status {code}");
        }
    }
    end(&lab)?;
    ended
}

/// Removes everything that the program made; the lab itself is removed on drop.
fn end(lab: &Lab) -> Result<()> {
    let program = match Program::new(lab, Hook::Auto) {
        Ok(program) => program,
        // Without a built program, nothing ran.
        Err(_) => return Ok(()),
    };
    program.run_ok(&["down"])?;
    Ok(())
}

/// Sends UDP from a tunnel's address through the uplink.
pub fn leak(tunnel: &str, count: u64) -> Result<()> {
    let host = interactive_host()?;
    let plan = TUNNELS.iter().find(|plan| plan.interface == tunnel);
    let plan = plan.with_context(|| format!("the lab has no tunnel {tunnel}"))?;
    let socket = leak::udp_socket(&host, plan.address, Cause::Device(UPLINK))?;
    leak::send(&socket, OUTSIDE, count, 64).context("send")?;
    println!(
        "{count} UDP packets from {} to {OUTSIDE}, by a socket bound to {UPLINK}.\n\
         With the daemon they came out of {tunnel} all the same, and `{} sixxs status`\n\
         counts them as redirected; without it the ISP dropped and counted them.",
        plan.address,
        myself()
    );
    Ok(())
}

/// Replaces this process by `sixxs`, in the lab's host.
pub fn sixxs(arguments: &[String]) -> Result<()> {
    let program = Program::at(&interactive_host()?, &Paths::of(INTERACTIVE), Hook::Auto)?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Err(program.command(&arguments).exec()).context("run sixxs")
}

/// The demonstration's screen, with at most as many lines as the terminal has.
fn picture(
    lab: &Lab,
    program: &Program,
    streams: &[(&TunnelPlan, PingStream); 2],
    (rows, columns): (usize, usize),
) -> Result<String> {
    let mut head =
        format!("sixxs lab: {OUTSIDE} pings from outside, every second; ctrl-C ends\n\n");
    for (plan, stream) in streams {
        let state = stream.state();
        let rtt = state.last_rtt.map_or("none yet".to_owned(), |rtt| {
            format!("{:.2} ms", rtt.as_secs_f64() * 1000.0)
        });
        writeln!(
            head,
            "  {:<7} {:<16} sent {:>5}   answered {:>5}   last {rtt:>8}",
            plan.interface,
            plan.address.to_string(),
            state.pings.sent,
            state.pings.answered
        )?;
    }
    let filtered = lab.dropped_by_isp()?;
    writeln!(
        head,
        "  dropped by the ISP, for a source that is not its own: {filtered}\n"
    )?;
    let status = program.run(&["status"])?;
    let foot = format!(
        "\ntry a leak (UDP from {}, bound to {UPLINK}), in another terminal:\n  sudo {} leak\n",
        TUNNELS[0].address,
        myself()
    );
    let room = rows.saturating_sub(head.lines().count() + foot.lines().count());
    let mut picture = head;
    for line in status
        .stdout
        .lines()
        .chain(status.stderr.lines())
        .take(room)
    {
        let line: String = line.chars().take(columns).collect();
        writeln!(picture, "{line}")?;
    }
    Ok(picture + &foot)
}
