//! How long a changed address of a link is not protected, and what reaches the wrong provider meanwhile.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv6Addr;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use indicatif::ProgressIterator as _;
use sixxs_tests::kernel::route_events::Events;
use sixxs_tests::lab::netns::Namespace;
use sixxs_tests::lab::topology::{Flavour, OUTSIDE, TUNNELS};
use sixxs_tests::lab::{Lab, Spec};
use sixxs_tests::probe::leak::{self, Cause};
use sixxs_tests::program::{Hook, Program};
use sixxs_tests::wait;

use crate::machine;
use crate::progress;

/// Limit for the protection of an address, and for the daemon's start with all addresses.
const LIMIT: Duration = Duration::from_secs(60);
/// Interval of the sender's packets, and the time for which it sends.
const INTERVAL: Duration = Duration::from_micros(200);
const SENDING: Duration = Duration::from_millis(20);
/// The time between two changes. More changes would meet the limit of the daemon's rounds.
const PAUSE: Duration = Duration::from_millis(150);
/// Links with many addresses, besides the first tunnel's interface.
const MORE_LINKS: usize = 3;

/// What is measured.
struct Case {
    name: &'static str,
    /// The number of addresses on the host.
    addresses: usize,
    /// The target for the 99th percentile; `None`: the rule is there before the address is usable.
    most: Option<Duration>,
    /// The end of the command that adds an address.
    detection: &'static str,
    /// One of this number of changes is measured: duplicate address detection takes a second.
    divisor: usize,
}

const CASES: [Case; 3] = [
    Case {
        name: "10 addresses, usable at once",
        addresses: 10,
        most: Some(Duration::from_millis(5)),
        detection: " nodad",
        divisor: 1,
    },
    Case {
        name: "1,000 addresses, usable at once",
        addresses: 1000,
        most: Some(Duration::from_millis(50)),
        detection: " nodad",
        divisor: 4,
    },
    Case {
        name: "10 addresses, with duplicate address detection",
        addresses: 10,
        most: None,
        detection: "",
        divisor: 20,
    },
];

/// The results of one case.
struct Row {
    case: &'static Case,
    times: Vec<Duration>,
    sent: u64,
    /// Packets that the wrong provider received.
    filtered: u64,
    resident_kib: [u64; 2],
    descriptors: [usize; 2],
}

/// Measures with this number of changes per case, and returns the report.
pub(crate) fn measure(times: usize) -> Result<String> {
    let rows: Result<Vec<_>> = CASES
        .iter()
        .map(|case| {
            let row = measure_case(case, times.div_ceil(case.divisor))?;
            // This takes minutes: print each row at once.
            eprint!("{}", row.text()?);
            Ok(row)
        })
        .collect();
    write_up(&rows?, times)
}

/// A process to which commands of `ip` are written.
struct Ip(Child);

impl Ip {
    fn start(at: &Namespace) -> Result<Self> {
        let mut command = at.command("ip");
        command.args(["-batch", "-"]).stdin(Stdio::piped());
        Ok(Self(command.spawn().context("start ip")?))
    }

    fn run(&mut self, line: &str) -> Result<()> {
        let input = self.0.stdin.as_mut().context("its input")?;
        writeln!(input, "{line}").context("write to ip")
    }
}

impl Drop for Ip {
    fn drop(&mut self) {
        // It ends with its input.
        drop(self.0.stdin.take());
        let _ended = self.0.wait();
    }
}

fn config(lab: &Lab) -> String {
    let own = format!("address = \"{}/64\"\n", TUNNELS[0].address);
    let mut text = lab.config("").replacen(&own, "address = \"auto\"\n", 1);
    for number in 0..MORE_LINKS {
        text += &format!(
            "[[link]]\nname = \"more{number}\"\nkind = \"interface\"\naddress = \"auto\"\n\
             gateway = \"fe80::1\"\n"
        );
    }
    text
}

/// Makes the other links. The addresses are shared out among them and the first tunnel's interface.
fn add_links(host: &Namespace, addresses: usize) -> Result<()> {
    let each = addresses / (MORE_LINKS + 1);
    let mut batch = String::new();
    for number in 0..MORE_LINKS {
        writeln!(
            batch,
            "link add more{number} type veth peer name far{number}"
        )?;
        writeln!(batch, "link set far{number} up")?;
        writeln!(batch, "link set more{number} up")?;
    }
    for place in 0..=MORE_LINKS {
        let name = match place.checked_sub(1) {
            None => TUNNELS[0].interface.to_owned(),
            Some(number) => format!("more{number}"),
        };
        for index in 1..each {
            writeln!(
                batch,
                "address add 2001:db8:{:x}::{index:x}/64 dev {name} nodad",
                0xc0 + place
            )?;
        }
    }
    host.ip(&batch)
}

fn measure_case(case: &'static Case, times: usize) -> Result<Row> {
    // A TUN device has no duplicate address detection.
    let flavour = match case.most {
        Some(_) => Flavour::Tun,
        None => Flavour::Veth,
    };
    let lab = Lab::new(Spec::new(flavour))?;
    let host = lab.host();
    if case.most.is_none() {
        // The lab has it turned off.
        let interface = TUNNELS[0].interface;
        host.sh(&format!(
            "sysctl -q -w net.ipv6.conf.{interface}.accept_dad=1"
        ))?;
    }
    add_links(host, case.addresses)?;
    lab.write_config(&config(&lab))?;
    let program = Program::new(&lab, Hook::Auto)?;
    let daemon = program.start()?;
    let status = || program.status();
    wait::until("all addresses are there", LIMIT, status, |status| {
        let mut tunnels = status.tunnels.iter();
        tunnels.all(|tunnel| tunnel.is_whole() && !tunnel.addresses.is_empty())
    })?;
    let events = Events::listen(host)?;
    let mut ip = Ip::start(host)?;
    let mut row = Row {
        case,
        times: Vec::new(),
        sent: 0,
        filtered: 0,
        resident_kib: [daemon.resident_kib()?, 0],
        descriptors: [daemon.descriptors()?, 0],
    };
    let before = lab.dropped_by_isp()?;
    let mut old = TUNNELS[0].address;
    let bar = progress::bar("changes", times as u64);
    for number in (0..times).progress_with(bar) {
        let new = Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 1, 0, u16::try_from(number)? + 16);
        // Of the changes before.
        events.all()?;
        let interface = TUNNELS[0].interface;
        let begun = Instant::now();
        ip.run(&format!(
            "address add {new}/64 dev {interface}{}",
            case.detection
        ))?;
        ip.run(&format!("address del {old}/64 dev {interface}"))?;
        row.sent += send(host, new)?;
        row.times.push(rule_comes(&events, new)? - begun);
        old = new;
        std::thread::sleep(PAUSE);
    }
    row.filtered = lab.dropped_by_isp()? - before;
    row.resident_kib[1] = daemon.resident_kib()?;
    row.descriptors[1] = daemon.descriptors()?;
    ensure!(daemon.stop()? == 0);
    Ok(row)
}

/// The time of the event for the rule of an address.
fn rule_comes(events: &Events, address: Ipv6Addr) -> Result<Instant> {
    loop {
        let event = events.next(LIMIT)?.context("it gets a rule")?;
        let is_its = event.key.windows(16).any(|bytes| bytes == address.octets());
        if event.is_rule && event.created && is_its {
            return Ok(event.at);
        }
    }
}

/// Sends from an address for some time, as soon as it is usable. Returns the number of packets.
fn send(host: &Namespace, from: Ipv6Addr) -> Result<u64> {
    let waited = Instant::now();
    let socket = loop {
        match leak::udp_socket(host, from, Cause::Rules) {
            Ok(socket) => break socket,
            Err(_) if waited.elapsed() < LIMIT => std::thread::sleep(INTERVAL),
            Err(error) => return Err(error),
        }
    };
    let begun = Instant::now();
    let mut sent = 0;
    while begun.elapsed() < SENDING {
        leak::send(&socket, OUTSIDE, 1, 100)?;
        sent += 1;
        std::thread::sleep(INTERVAL);
    }
    Ok(sent)
}

/// The quantile: this many of a thousand values are not above it.
fn quantile(times: &[Duration], per_mille: usize) -> f64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    let at = times.len().saturating_sub(1) * per_mille / 1000;
    times.get(at).copied().unwrap_or_default().as_secs_f64() * 1e3
}

impl Row {
    fn text(&self) -> Result<String> {
        let [before, after] = self.resident_kib;
        let [opened, left] = self.descriptors;
        let p99 = quantile(&self.times, 990);
        let mut row = String::new();
        writeln!(
            row,
            "| {} | {:.1} | {p99:.1} | {:.1} | {} | {} | {} | {before} → {after} | {opened} → {left} |",
            self.case.name,
            quantile(&self.times, 500),
            quantile(&self.times, 1000),
            self.case.most.map_or_else(
                || "before it is usable".to_owned(),
                |most| most.as_millis().to_string()
            ),
            self.sent,
            self.filtered,
        )?;
        Ok(row)
    }
}

fn write_up(rows: &[Row], times: usize) -> Result<String> {
    let (machine, processors, date) = (machine::name()?, machine::processors(), machine::date());
    let mut text = format!(
        "## `renumber`: time until a changed address is protected\n\n\
         {machine}, {processors} processors; {date}. {times} changes each.\n\n\
         A link follows its addresses (`address = \"auto\"`). `ip` adds an address, and removes the one before. The time\n\
         ends with the kernel's event for the rule of the new address. As soon as the address is usable, packets from it\n\
         are sent for {} ms, by the rules; *filtered* counts what the wrong provider received and dropped. A pause of\n\
         {} ms follows. Of the changes, one of {} is measured with 1,000 addresses, and one of {} with duplicate address\n\
         detection.\n\n\
         | on the host | p50, ms | p99, ms | max, ms | target for p99, ms | packets | filtered | resident, KiB | descriptors |\n\
         |---|---:|---:|---:|---:|---:|---:|---|---|\n",
        SENDING.as_millis(),
        PAUSE.as_millis(),
        CASES[1].divisor,
        CASES[2].divisor,
    );
    for row in rows {
        text += &row.text()?;
    }
    Ok(text)
}
