//! Probes: pings at an interval, each by its own task, for links whose loss and reply time matter.

use std::{collections::VecDeque, future::pending, io, net::Ipv6Addr, time::Duration};

use sixxs_common::packet::ECHO_REPLY;
use sixxs_core::{config::Probe, types::IfName};
use tokio::{
    net::UdpSocket,
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};

use super::{clock::after, ping};

/// The path of the probes of a link: from its address to one that answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProbePath {
    /// The source. The rules lead packets from it by the link.
    pub(crate) source: Ipv6Addr,
    /// The destination.
    pub(crate) target: Ipv6Addr,
}

/// A probe that has finished.
#[derive(Clone, Debug)]
pub(crate) struct Probed {
    /// The link.
    pub(crate) link: IfName,
    /// When it was sent.
    pub(crate) sent: Instant,
    /// Time to the reply; `None`: no reply came, or it could not be sent.
    pub(crate) reply: Option<Duration>,
}

/// Probes a link until it is dropped.
#[derive(Debug)]
pub(crate) struct Prober {
    path: ProbePath,
    task: JoinHandle<()>,
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Prober {
    /// Starts to probe a link.
    pub(crate) fn start(
        link: IfName,
        path: ProbePath,
        limits: Probe,
        finished: mpsc::Sender<Probed>,
    ) -> Self {
        let task = Task {
            link,
            path,
            limits,
            finished,
            socket: None,
            sequence: 0,
            waiting: VecDeque::new(),
        };
        Self {
            path,
            task: tokio::spawn(task.run()),
        }
    }

    /// The path of its probes.
    pub(crate) const fn path(&self) -> ProbePath {
        self.path
    }
}

/// A socket, and the identifier of its messages.
struct Open {
    /// A raw ICMPv6 socket. Reading and writing it is the same as for UDP.
    socket: UdpSocket,
    identifier: [u8; 2],
}

/// A probe whose reply may still come.
struct Waiting {
    sequence: u16,
    sent: Instant,
}

struct Task {
    link: IfName,
    path: ProbePath,
    limits: Probe,
    finished: mpsc::Sender<Probed>,
    /// `None`: it could not be opened, as the address is not there.
    socket: Option<Open>,
    sequence: u16,
    waiting: VecDeque<Waiting>,
}

impl Task {
    /// Ends when the receiver has gone.
    async fn run(mut self) {
        let mut due = interval(self.limits.interval);
        // After a pause of the whole machine, one probe is enough.
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let first = self.waiting.front();
            let lost_at = first.map(|first| after(first.sent, self.limits.timeout()));
            let finished = tokio::select! {
                _ = due.tick() => self.send().await,
                received = receive(self.socket.as_ref()) => self.take(received),
                () = at(lost_at) => self.waiting.pop_front().map(|lost| (lost.sent, None)),
            };
            let Some((sent, reply)) = finished else {
                continue;
            };
            let link = self.link.clone();
            if self
                .finished
                .send(Probed { link, sent, reply })
                .await
                .is_err()
            {
                return;
            }
        }
    }

    /// Sends a probe. A probe that cannot be sent is lost at once.
    async fn send(&mut self) -> Option<(Instant, Option<Duration>)> {
        self.sequence = self.sequence.wrapping_add(1);
        let sent = Instant::now();
        if self.socket.is_none() {
            self.socket = open(self.path).ok();
        }
        let Some(open) = &self.socket else {
            return Some((sent, None));
        };
        let message = ping::request(open.identifier, self.sequence);
        // A queue that stays full is a loss too.
        match timeout(self.limits.interval, open.socket.send(&message)).await {
            Ok(Ok(_)) => {
                let sequence = self.sequence;
                self.waiting.push_back(Waiting { sequence, sent });
                None
            }
            Ok(Err(_)) | Err(_) => Some((sent, None)),
        }
    }

    /// Takes a reply; `None`: it answers no probe that waits.
    fn take(&mut self, received: io::Result<[u8; 8]>) -> Option<(Instant, Option<Duration>)> {
        // An error belongs to an earlier probe, which then gets no reply.
        let answer = received.ok()?;
        let open = self.socket.as_ref()?;
        let is_reply_to = |waiting: &Waiting| {
            answer[0] == ECHO_REPLY
                && answer[4..6] == open.identifier
                && answer[6..8] == waiting.sequence.to_be_bytes()
        };
        let place = self.waiting.iter().position(is_reply_to)?;
        let answered = self.waiting.remove(place)?;
        Some((answered.sent, Some(answered.sent.elapsed())))
    }
}

/// Receives the beginning of a message. Shorter ones are filled with zeros.
async fn receive(open: Option<&Open>) -> io::Result<[u8; 8]> {
    let Some(open) = open else {
        return pending().await;
    };
    let mut message = [0; 8];
    open.socket.recv(&mut message).await?;
    Ok(message)
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => pending().await,
    }
}

fn open(path: ProbePath) -> anyhow::Result<Open> {
    let (socket, identifier) = ping::connected(path.source, path.target)?;
    socket.set_nonblocking(true)?;
    Ok(Open {
        socket: UdpSocket::from_std(socket.into())?,
        identifier,
    })
}

#[cfg(test)]
mod tests {
    use sixxs_common::packet::ECHO_REQUEST;

    use super::*;

    fn task(finished: mpsc::Sender<Probed>) -> Task {
        let local = Ipv6Addr::LOCALHOST;
        Task {
            link: "he".parse().unwrap(),
            path: ProbePath {
                source: local,
                target: local,
            },
            limits: Probe::default(),
            finished,
            socket: None,
            sequence: 0,
            waiting: VecDeque::new(),
        }
    }

    #[tokio::test]
    async fn only_the_reply_to_a_waiting_probe_counts() {
        let (finished, _receiver) = mpsc::channel(1);
        let mut task = task(finished);
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        task.socket = Some(Open {
            socket: UdpSocket::from_std(socket).unwrap(),
            identifier: [1, 2],
        });
        let sent = Instant::now();
        for sequence in [7, 8] {
            task.waiting.push_back(Waiting { sequence, sent });
        }
        for other in [
            [ECHO_REQUEST, 0, 0, 0, 1, 2, 0, 8],
            [ECHO_REPLY, 0, 0, 0, 1, 3, 0, 8],
            [ECHO_REPLY, 0, 0, 0, 1, 2, 0, 9],
        ] {
            assert!(task.take(Ok(other)).is_none(), "{other:?}");
        }
        assert!(
            task.take(Err(io::ErrorKind::HostUnreachable.into()))
                .is_none()
        );
        let reply = [ECHO_REPLY, 0, 0, 0, 1, 2, 0, 8];
        assert!(matches!(task.take(Ok(reply)), Some((_, Some(_)))));
        assert!(task.take(Ok(reply)).is_none(), "a second reply");
        assert_eq!(task.waiting.len(), 1);
    }

    #[tokio::test]
    async fn a_probe_that_cannot_be_sent_is_lost() {
        let (finished, mut receiver) = mpsc::channel(1);
        let mut task = task(finished);
        // No interface has it.
        task.path.source = "2001:db8:dead::1".parse().unwrap();
        let prober = Prober {
            path: task.path,
            task: tokio::spawn(task.run()),
        };
        let probed = receiver.recv().await.unwrap();
        assert_eq!((probed.link.as_str(), probed.reply), ("he", None));
        assert_eq!(prober.path().target, Ipv6Addr::LOCALHOST);
        drop(prober);
        while receiver.recv().await.is_some() {}
    }
}
