//! The whole TIC server: the listener, its connections, and the interface for tests, including fault
//! injection.
//!
//! Tasks: one thread that accepts connections, and one per connection, at most [`MOST_CONNECTIONS`]. All end
//! with [`Tic::stop`] or drop, which shut every connection down.

mod connection;
mod dialogue;
mod lockout;
mod registry;
mod shared;

use std::collections::VecDeque;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::eventfd::{EfdFlags, EventFd};

pub use super::certificate::Certificate;
pub use dialogue::Stage;
pub use lockout::{Rule, Verdict};
pub use registry::{Account, PopRecord, Registry, TunnelRecord};
pub use shared::{Connect, Fault, Outcome};

use super::certificate::Authority;
use super::clock::Clock;
use super::listener::next_client;
use crate::lab::netns::Namespace;
use lockout::Lockout;
use shared::{Settings, Shared};

/// The server's TCP port.
pub const PORT: u16 = 3874;
/// Concurrent connections; further ones are closed at once.
pub const MOST_CONNECTIONS: usize = 64;
/// A connection without traffic is closed after this time.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// The server.
#[derive(Debug)]
pub struct Tic {
    namespace: Namespace,
    address: SocketAddr,
    authority: Authority,
    other_authority: Authority,
    shared: Arc<Shared>,
    running: Mutex<Option<Running>>,
}

impl Tic {
    /// Starts a server at this address in a namespace.
    pub fn new(namespace: &Namespace, address: SocketAddr, registry: Registry) -> Result<Self> {
        let authority = Authority::new("the lab's authority")?;
        let settings = Settings {
            registry,
            fault: None,
            tls: authority.server(address.ip(), Certificate::Right)?,
            idle_limit: IDLE_LIMIT,
        };
        let tic = Self {
            namespace: namespace.clone(),
            address,
            authority,
            other_authority: Authority::new("nobody's authority")?,
            shared: Arc::new(Shared {
                clock: Clock::new(),
                time_ahead: AtomicI64::new(0),
                seed: AtomicU64::new(0),
                settings: Mutex::new(settings),
                lockout: Mutex::default(),
                connects: Mutex::default(),
            }),
            running: Mutex::new(None),
        };
        tic.start()?;
        Ok(tic)
    }

    /// Starts it again. Does nothing if it is running.
    pub fn start(&self) -> Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.is_none() {
            let listener = self.namespace.run(|| {
                TcpListener::bind(self.address)
                    .with_context(|| format!("listen on TCP {}", self.address))
            })?;
            *running = Some(Running::start(listener, Arc::clone(&self.shared))?);
        }
        Ok(())
    }

    /// Stops it: connections are shut down, and the kernel refuses new ones.
    pub fn stop(&self) {
        self.running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate of the authority, for `tls_ca`.
    pub fn authority_pem(&self) -> String {
        self.authority.pem()
    }

    /// The clock of the rate limit and of `get unixtime`.
    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// Adds this number of seconds to the time of `get unixtime`.
    pub fn set_time_ahead(&self, seconds: i64) {
        self.shared.time_ahead.store(seconds, Ordering::Relaxed);
    }

    /// Changes its data.
    pub fn change(&self, change: impl FnOnce(&mut Registry)) {
        change(&mut self.shared.settings().registry);
    }

    /// Injects a fault at this stage of every dialogue from now on.
    pub fn misbehave(&self, at: Stage, fault: Fault) {
        self.shared.settings().fault = Some((at, fault));
    }

    /// Ends [`Tic::misbehave`].
    pub fn behave(&self) {
        self.shared.settings().fault = None;
    }

    /// Sets the certificate for new TLS connections.
    pub fn show(&self, certificate: Certificate) -> Result<()> {
        let authority = match certificate {
            Certificate::OtherAuthority => &self.other_authority,
            _ => &self.authority,
        };
        let tls = authority.server(self.address.ip(), certificate)?;
        self.shared.settings().tls = tls;
        Ok(())
    }

    /// Sets the time after which a connection without traffic is closed.
    pub fn set_idle_limit(&self, limit: Duration) {
        self.shared.settings().idle_limit = limit;
    }

    /// Sets the rate limit for connects, and forgets earlier connects.
    pub fn set_rule(&self, rule: Rule) {
        let mut lockout = self
            .shared
            .lockout
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *lockout = (rule, Lockout::default());
    }

    /// Every connect since the server was made, oldest first.
    pub fn connects(&self) -> Vec<Connect> {
        self.shared.connects().values().cloned().collect()
    }
}

/// The threads of a server.
#[derive(Debug)]
struct Running {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(listener: TcpListener, shared: Arc<Shared>) -> Result<Self> {
        let stop =
            EventFd::from_flags(EfdFlags::EFD_CLOEXEC).context("make an event descriptor")?;
        let stop = Arc::new(stop);
        let stopped = Arc::clone(&stop);
        listener.set_nonblocking(true).context("never wait")?;
        let thread = std::thread::Builder::new()
            .name("tic-accept".to_owned())
            .spawn(move || accept(&listener, &shared, &stopped))
            .context("start the TIC server")?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let woken = self.stop.write(1);
        if let (Ok(_), Some(thread)) = (woken, self.thread.take())
            && thread.join().is_err()
        {
            eprintln!("the TIC server panicked");
        }
    }
}

/// A connection's thread, and a handle to shut the connection down.
struct Serving {
    stream: TcpStream,
    thread: JoinHandle<()>,
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, stop: &EventFd) {
    let mut serving: VecDeque<Serving> = VecDeque::new();
    while let Some((stream, from)) = next_client(listener, stop) {
        serving.retain(|serving| !serving.thread.is_finished());
        if let Err(e) = receive(stream, from, shared, &mut serving) {
            eprintln!("tic: {e:#}");
        }
    }
    for Serving { stream, thread } in serving {
        // A connection that the client closed cannot be shut down, and need not be.
        if stream.shutdown(Shutdown::Both).is_ok() || thread.is_finished() {
            join(thread);
        }
    }
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        eprintln!("a TIC connection panicked");
    }
}

fn receive(
    stream: TcpStream,
    from: SocketAddr,
    shared: &Arc<Shared>,
    serving: &mut VecDeque<Serving>,
) -> Result<()> {
    let verdict = locked(shared, from.ip());
    let outcome = match verdict {
        Verdict::Welcome if serving.len() >= MOST_CONNECTIONS => Outcome::Busy,
        Verdict::Welcome => Outcome::Open,
        _ => Outcome::Locked(verdict),
    };
    let open = outcome == Outcome::Open;
    let number = shared.enter(from, outcome);
    if !open {
        return connection::turn_away(stream, verdict, shared.clock.now());
    }
    let handle = stream.try_clone().context("keep a handle")?;
    let shared = Arc::clone(shared);
    let thread = std::thread::Builder::new()
        .name("tic".to_owned())
        .spawn(move || connection::serve(stream, &shared, number))
        .context("start a connection")?;
    serving.push_back(Serving {
        stream: handle,
        thread,
    });
    Ok(())
}

fn locked(shared: &Shared, from: IpAddr) -> Verdict {
    let mut lockout = shared
        .lockout
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let (rule, lockout) = &mut *lockout;
    lockout.connect(rule, from, shared.clock.now())
}
