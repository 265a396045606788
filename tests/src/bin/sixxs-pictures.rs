//! Draws the pictures of the documentation from a real run. In the lab, with traffic and a leak, it writes
//! the terminal screens of `sixxs top` and `sixxs status` as SVG to `docs/pictures`.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sixxs_tests::broker::Kind;
use sixxs_tests::lab::topology::{OUTSIDE, TUNNELS, UPLINK};
use sixxs_tests::lab::{Lab, Spec};
use sixxs_tests::probe::leak::{self, Cause};
use sixxs_tests::probe::service::Services;
use sixxs_tests::probe::{self, PingStream};
use sixxs_tests::program::{Hook, Program};
use sixxs_tests::terminal::svg;
use sixxs_tests::terminal::tmux::Tmux;

const PICTURES: &str = "docs/pictures";

/// Duration of the traffic; it fills the graphs.
const TRAFFIC: Duration = Duration::from_secs(100);

const TOP: (u16, u16) = (96, 18);
const STATUS: (u16, u16) = (90, 24);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("sixxs-pictures: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let lab = Lab::new(Spec::native([Kind::Ayiya, Kind::Heartbeat]))?;
    lab.write_config(&lab.config(""))?;
    let addresses = TUNNELS.each_ref().map(|plan| plan.address);
    let _outside = Services::start(lab.outside(), &[])?;
    let _host = Services::start(lab.host(), &addresses)?;
    let program = Program::new(&lab, Hook::Auto)?;
    let daemon = program.start()?;
    program.status_until("the tunnels are up", |status| status.healthy)?;

    let binary = program.binary().canonicalize().context("find sixxs")?;
    let terminal = |size| Tmux::start(lab.host(), &program, size, &[]);
    let top = terminal(TOP)?;
    top.line(&format!("{} top", binary.display()))?;
    let [first, second] = addresses;
    let pings = [(first, 100), (second, 250)].map(|(address, millis)| {
        PingStream::start(lab.outside(), address, Duration::from_millis(millis))
    });
    println!("traffic for {} s", TRAFFIC.as_secs());
    std::thread::scope(|scope| {
        let traffic = scope.spawn(|| carry(&lab));
        let leaks = some_leaks(&lab);
        let traffic = traffic
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        leaks.and(traffic)
    })?;
    top.until("the leak is told", |screen| screen.contains("leaked to"))?;
    let screen = top.coloured_screen()?;
    top.key("q")?;
    keep("top", "sixxs top", &screen, TOP.0)?;

    let status = terminal(STATUS)?;
    status.line(&format!("clear; {} status", binary.display()))?;
    status.until("the status is printed", |screen| {
        screen.contains("corrections")
    })?;
    let screen = status.coloured_screen()?;
    // Drop the shell's lines.
    let lines = screen
        .lines()
        .skip_while(|line| !line.starts_with("sixxs0"));
    let lines: Vec<_> = lines.take_while(|line| !line.contains("ready$")).collect();
    keep("status", "sixxs status", &lines.join("\n"), STATUS.0)?;

    for stream in pings {
        stream?.stop()?;
    }
    daemon.stop()?;
    program.run_ok(&["down"])?;
    Ok(())
}

/// Sends and receives data over both tunnels, in changing amounts.
fn carry(lab: &Lab) -> Result<()> {
    const SIZES: [u64; 9] = [40, 90, 160, 300, 420, 250, 120, 60, 200];
    let limit = Duration::from_secs(10);
    let began = Instant::now();
    while began.elapsed() < TRAFFIC {
        // A character of a graph is five seconds.
        let number = usize::try_from(began.elapsed().as_secs() / 5)?;
        let size = |number: usize| SIZES[number % SIZES.len()];
        let sizes = [size(number) * 1000, size(number * 4 + 3) * 700];
        for (plan, size) in TUNNELS.iter().zip(sizes) {
            probe::tcp_transfer(lab.outside(), plan.address, size, size / 3, limit)?;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}

/// Sends with a tunnel's address through the uplink, twice until the end of the traffic.
fn some_leaks(lab: &Lab) -> Result<()> {
    let socket = leak::udp_socket(lab.host(), TUNNELS[0].address, Cause::Device(UPLINK))?;
    for count in [5, 12] {
        std::thread::sleep(TRAFFIC / 2 - Duration::from_secs(2));
        leak::send(&socket, OUTSIDE, count, 100).context("leak")?;
    }
    Ok(())
}

fn keep(name: &str, title: &str, screen: &str, columns: u16) -> Result<()> {
    let path = Path::new(PICTURES).join(format!("{name}.svg"));
    fs::create_dir_all(PICTURES).with_context(|| format!("make {PICTURES}"))?;
    fs::write(&path, svg::picture(title, screen, columns))
        .with_context(|| format!("write {}", path.display()))?;
    println!("{}:\n{screen}", path.display());
    Ok(())
}
