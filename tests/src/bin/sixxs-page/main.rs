//! Tests the page in a real browser: it shows what the daemon knows, follows changes, can be used by keyboard, with a screen
//! reader and on a phone, and loads nothing from elsewhere. Writes its pictures to `docs/pictures`.
//!
//! `cargo xtask test page` runs it, in the root directory of the checkout.

mod checks;
mod past;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use sixxs_tests::browser::Browser;
use sixxs_tests::lab::topology::{Flavour, OUTSIDE, UPLINK};
use sixxs_tests::lab::{Lab, Spec};
use sixxs_tests::probe::leak::{self, Cause};
use sixxs_tests::probe::service::Services;
use sixxs_tests::probe::{self, PingStream};
use sixxs_tests::program::{Daemon, Hook, Program};
use sixxs_tests::wait;

use crate::checks::{Page, View};

const ADDRESS: &str = "127.0.0.1:9347";

/// Limit for a change to be shown. The daemon judges health every ten seconds.
const LIMIT: Duration = Duration::from_secs(30);

const ARE_TWO: &str = "document.querySelectorAll('.card').length === 2";
const IS_LIVE: &str = "document.querySelector('#connection-text').textContent === 'Live'";

/// Time of traffic before the pictures: it fills the live charts.
const TRAFFIC: Duration = Duration::from_secs(110);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sixxs-page: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let lab = Lab::new(Spec::new(Flavour::Veth))?;
    let config = lab.config(&format!("page = \"{ADDRESS}\"\n"));
    lab.write_config(&config)?;
    past::write(&lab)?;
    let addresses = lab.tunnels().each_ref().map(|tunnel| tunnel.plan.address);
    let _outside = Services::start(lab.outside(), &[])?;
    let _host = Services::start(lab.host(), &addresses)?;
    let program = Program::new(&lab, Hook::Auto)?;
    let daemon = program.start()?;
    program.status_until("the tunnels are healthy", |status| status.healthy)?;
    let pings = addresses
        .map(|address| PingStream::start(lab.outside(), address, Duration::from_millis(200)));

    let browser = Browser::start(lab.host(), lab.paths().base())?;
    let page = Page::open(&browser, ADDRESS)?;
    look(&lab, &page)?;
    many(&lab, &program, &page, &config)?;

    // The daemon ends and comes back.
    daemon.stop()?;
    page.shows("a lost connection", LIMIT, &["No connection to the daemon"])?;
    let daemon = program.start()?;
    page.until("the connection is back", LIMIT, IS_LIVE)?;
    println!("the connection comes back");
    let (daemon, others) = crowded(&lab, &program, daemon)?;
    page.shows("a refusal", LIMIT, &["Too many pages are open"])?;
    drop(others);
    page.until("the connection is back again", LIMIT, IS_LIVE)?;
    println!("a page too many says so");
    drop(browser);
    for stream in pings {
        stream?.stop()?;
    }
    daemon.stop()?;
    program.run_ok(&["down"])?;
    Ok(())
}

/// Checks the page while traffic runs, packets leak, and a link breaks and comes back.
fn look(lab: &Lab, page: &Page<'_>) -> Result<()> {
    page.until("the tunnels are shown", LIMIT, ARE_TWO)?;
    println!("the page is shown");
    leak_some(lab)?;
    let leak = ["Leak: sixxs0", "socket bound to net0"];
    page.shows("a leak", LIMIT, &leak)?;
    carry(lab)?;
    page.check_content()?;

    let [first, _] = lab.tunnels();
    first.pop().sh("ip link set host down")?;
    let broken = ["1 of 2 tunnels is failing", "no carrier"];
    page.shows("a broken link", LIMIT, &broken)?;
    page.check_everywhere(View::Failing)?;
    first.pop().sh("ip link set host up")?;
    page.shows("a link that is back", LIMIT, &["Both tunnels are healthy"])?;
    println!("changes are shown");
    for view in View::HEALTHY {
        page.check_everywhere(view)?;
    }
    page.check_keyboard()?;
    page.check_requests()
}

/// Sends with a tunnel's address through the uplink.
fn leak_some(lab: &Lab) -> Result<()> {
    let socket = leak::udp_socket(
        lab.host(),
        lab.tunnels()[0].plan.address,
        Cause::Device(UPLINK),
    )?;
    leak::send(&socket, OUTSIDE, 5, 100)?;
    Ok(())
}

/// Sends and receives data over both tunnels, in changing amounts.
fn carry(lab: &Lab) -> Result<()> {
    const SIZES: [u64; 9] = [40, 90, 160, 300, 420, 250, 120, 60, 200];
    let limit = Duration::from_secs(10);
    println!("traffic for {} s", TRAFFIC.as_secs());
    let rounds = usize::try_from(TRAFFIC.as_secs())?;
    for number in 0..rounds {
        let size = |number: usize| SIZES[number / 4 % SIZES.len()] * 1000;
        let sizes = [size(number), size(number * 3 + 7)];
        for (tunnel, size) in lab.tunnels().iter().zip(sizes) {
            let address = tunnel.plan.address;
            probe::tcp_transfer(lab.outside(), address, size, size / 3, limit)?;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}

/// Restarts the daemon, and takes all its places for pages before the browser connects again.
fn crowded(lab: &Lab, program: &Program, mut daemon: Daemon) -> Result<(Daemon, Vec<TcpStream>)> {
    const PLACES: usize = 16;
    const TRIES: usize = 5;
    for _ in 0..TRIES {
        daemon.stop()?;
        daemon = program.start()?;
        let open = || (0..PLACES).map(|_| open_events()).collect();
        let all: Vec<_> = lab.host().run(open)?;
        // Else the browser was faster.
        if all.iter().all(|(_, is_served)| *is_served) {
            return Ok((daemon, all.into_iter().map(|(stream, _)| stream).collect()));
        }
    }
    bail!("the browser was always faster")
}

/// Opens a connection for events. Returns whether the daemon serves it too.
fn open_events() -> Result<(TcpStream, bool)> {
    let mut stream = TcpStream::connect(ADDRESS)?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(stream, "GET /events HTTP/1.1\r\nHost: {ADDRESS}\r\n\r\n")?;
    let mut status = [0; 12];
    stream.read_exact(&mut status)?;
    Ok((stream, status == *b"HTTP/1.1 200"))
}

/// Shows hundreds of tunnels, whose interfaces do not exist.
fn many(lab: &Lab, program: &Program, page: &Page<'_>, config: &str) -> Result<()> {
    const MORE: usize = 400;
    let more = (0..MORE).map(|number| {
        format!(
            "\n[[tunnel]]\nname = \"more{number}\"\nkind = \"interface\"\naddress = \"2001:db8:cc:{number:x}::2/64\"\n"
        )
    });
    lab.write_config(&format!("{config}{}", more.collect::<String>()))?;
    program.run_ok(&["reload"])?;
    let count = format!("document.querySelectorAll('.card').length === {}", MORE + 2);
    page.until("all tunnels are shown", LIMIT * wait::patience(), &count)?;
    page.check_steady()?;
    lab.write_config(config)?;
    program.run_ok(&["reload"])?;
    page.until("the others are gone", LIMIT, ARE_TWO)
}
