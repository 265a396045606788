//! The web server of a broker like Hurricane Electric: endpoint updates by the dyndns2 protocol, and the data of
//! tunnels as XML, by HTTPS. An update moves the 6in4 endpoint of the PoP, after the server has pinged the new
//! address. It shares no code with the program, and misbehaves on request.
//!
//! Tasks: one thread that accepts connections, and one per connection. All end with the server.

pub mod account;
mod connection;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::eventfd::{EfdFlags, EventFd};
use rustls::ServerConfig;

use self::account::{Account, Query, Reply};
use super::certificate::{Authority, Certificate};
use super::listener::next_client;
use super::pop::Registrar;
use crate::lab::netns::Namespace;

/// A fault to inject instead of the right answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This HTTP status and text.
    Say(u16, String),
    /// The password that the client sent, as text.
    EchoLogin,
    /// The right answer, after this time.
    Slow(Duration),
    /// Nothing, until the client closes.
    Stall,
    /// Bytes that are no HTTP.
    Garbage,
    /// A text of this number of bytes.
    Flood(u64),
    /// Closes the connection.
    Close,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    /// When it was complete.
    pub at: Instant,
    /// The client's address.
    pub from: Ipv4Addr,
    /// Its contents.
    pub query: Query,
    /// The user agent.
    pub agent: String,
    /// The answer, without its line end, and when it was sent.
    pub answered: Option<(String, Instant)>,
}

/// The server.
#[derive(Debug)]
pub struct Hurricane {
    address: SocketAddr,
    authority: Authority,
    other_authority: Authority,
    shared: Arc<Shared>,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    namespace: Namespace,
    settings: Mutex<Settings>,
    requests: Mutex<Vec<Request>>,
    pings: AtomicBool,
    /// Set at the end, so that no pause outlives the server.
    is_ending: Mutex<bool>,
    ending: Condvar,
}

#[derive(Debug)]
struct Settings {
    account: Account,
    registrars: BTreeMap<u32, Registrar>,
    fault: Option<Fault>,
    tls: Arc<ServerConfig>,
}

impl Hurricane {
    /// Starts a server at this address in a namespace. `registrars`: the PoPs' ends, by number of the tunnel.
    pub fn start(
        namespace: &Namespace,
        address: SocketAddr,
        account: Account,
        registrars: BTreeMap<u32, Registrar>,
    ) -> Result<Self> {
        let authority = Authority::new("the authority of the web server")?;
        let settings = Settings {
            account,
            registrars,
            fault: None,
            tls: authority.server(address.ip(), Certificate::Right)?,
        };
        let listener = namespace.run(|| {
            TcpListener::bind(address).with_context(|| format!("listen on TCP {address}"))
        })?;
        listener.set_nonblocking(true).context("never wait")?;
        let shared = Arc::new(Shared {
            namespace: namespace.clone(),
            settings: Mutex::new(settings),
            requests: Mutex::default(),
            pings: AtomicBool::new(true),
            is_ending: Mutex::new(false),
            ending: Condvar::new(),
        });
        let stop =
            EventFd::from_flags(EfdFlags::EFD_CLOEXEC).context("make an event descriptor")?;
        let stop = Arc::new(stop);
        let (accepted, stopped) = (Arc::clone(&shared), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("hurricane".to_owned())
            .spawn(move || accept(&listener, &accepted, &stopped))
            .context("start the web server")?;
        Ok(Self {
            address,
            authority,
            other_authority: Authority::new("nobody's authority")?,
            shared,
            stop,
            thread: Some(thread),
        })
    }

    /// The certificate of the authority, for `ca`.
    pub fn authority_pem(&self) -> String {
        self.authority.pem()
    }

    /// Every request, oldest first.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests().clone()
    }

    /// Injects a fault into each answer from now on; `None`: no more.
    pub fn misbehave(&self, fault: Option<Fault>) {
        self.shared.settings().fault = fault;
    }

    /// Changes the account.
    pub fn change(&self, change: impl FnOnce(&mut Account)) {
        change(&mut self.shared.settings().account);
    }

    /// Whether it pings a new address before it accepts that.
    pub fn set_pings(&self, pings: bool) {
        self.shared.pings.store(pings, Ordering::Relaxed);
    }

    /// Sets the certificate for new connections.
    pub fn show(&self, certificate: Certificate) -> Result<()> {
        let authority = match certificate {
            Certificate::OtherAuthority => &self.other_authority,
            _ => &self.authority,
        };
        let tls = authority.server(self.address.ip(), certificate)?;
        self.shared.settings().tls = tls;
        Ok(())
    }
}

impl Drop for Hurricane {
    fn drop(&mut self) {
        *self
            .shared
            .is_ending
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.ending.notify_all();
        let woken = self.stop.write(1);
        if let (Ok(_), Some(thread)) = (woken, self.thread.take())
            && thread.join().is_err()
        {
            eprintln!("the web server panicked");
        }
    }
}

impl Shared {
    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn requests(&self) -> MutexGuard<'_, Vec<Request>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tls(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.settings().tls)
    }

    fn fault(&self) -> Option<Fault> {
        self.settings().fault.clone()
    }

    fn pings(&self) -> bool {
        self.pings.load(Ordering::Relaxed)
    }

    /// Records a request, and returns its number.
    fn note(&self, request: Request) -> usize {
        let mut requests = self.requests();
        requests.push(request);
        requests.len() - 1
    }

    fn answered(&self, number: usize, reply: &Reply) {
        if let Some(request) = self.requests().get_mut(number) {
            request.answered = Some((reply.body.trim_end().to_owned(), Instant::now()));
        }
    }

    fn answer(&self, query: &Query, from: Ipv4Addr) -> Reply {
        // A copy, so that nobody waits for the ping.
        let mut account = self.settings().account.clone();
        let reply = account.answer(query, from, |address| {
            connection::is_pingable(self, address)
        });
        let mut settings = self.settings();
        settings.account = account;
        if let Some((id, address)) = reply.moved
            && let Some(registrar) = settings.registrars.get(&id)
        {
            registrar.register(address);
        }
        reply
    }

    fn pause(&self, time: Duration) {
        let is_ending = self
            .is_ending
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .ending
            .wait_timeout_while(is_ending, time, |is_ending| !*is_ending);
        drop(waited);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, stop: &EventFd) {
    let mut serving: Vec<(TcpStream, JoinHandle<()>)> = Vec::new();
    while let Some((stream, from)) = next_client(listener, stop) {
        serving.retain(|(_, thread)| !thread.is_finished());
        let Ok(handle) = stream.try_clone() else {
            continue;
        };
        let shared = Arc::clone(shared);
        let from = match from.ip() {
            IpAddr::V4(_) => from,
            IpAddr::V6(_) => continue,
        };
        serving.push((
            handle,
            std::thread::spawn(move || {
                if let Err(error) = connection::serve(stream, from, &shared) {
                    eprintln!("web server: {error:#}");
                }
            }),
        ));
    }
    for (stream, thread) in serving {
        // A connection that the client closed cannot be shut down, and need not be.
        if (stream.shutdown(Shutdown::Both).is_ok() || thread.is_finished())
            && thread.join().is_err()
        {
            eprintln!("a connection of the web server panicked");
        }
    }
}
