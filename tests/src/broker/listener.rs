//! Clients of a server in the lab, until the server is stopped.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use socket2::SockRef;

/// Waits for the next client; `None` once `stop` is written to. Then the kernel refuses clients.
pub(super) fn next_client(
    listener: &TcpListener,
    stop: &EventFd,
) -> Option<(TcpStream, SocketAddr)> {
    loop {
        let mut ready = [
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
        ];
        let polled = poll(&mut ready, PollTimeout::NONE);
        let is_stopped = ready[0].any() == Some(true);
        if is_stopped || polled.is_err_and(|error| error != Errno::EINTR) {
            // A process that another test has just forked may hold the listener too, until it executes its program.
            if let Err(error) = SockRef::from(listener).shutdown(Shutdown::Both) {
                eprintln!("stop listening: {error}");
            }
            return None;
        }
        // It fails for a client that closed the connection meanwhile.
        if let Ok(client) = listener.accept() {
            return Some(client);
        }
    }
}
