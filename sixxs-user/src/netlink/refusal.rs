//! The kernel's answer to a request that it refuses: an error number, and a message if there is one (extended
//! acknowledgements, Linux 4.12: `NETLINK_EXT_ACK`).

use std::{fmt, io};

use rtnetlink::{
    packet_core::{ErrorBuffer, ErrorMessage, Parseable as _},
    sys::Socket,
};

/// Size of the request's header, which the answer repeats (`struct nlmsghdr`).
const HEADER_BYTES: usize = 16;

/// `NLMSGERR_ATTR_MSG` of the kernel's uapi/linux/netlink.h.
const MESSAGE_ATTRIBUTE: u16 = 1;

/// Requests error messages, and answers that repeat only the header of a request.
pub(super) fn request_error_messages(socket: &Socket) -> io::Result<()> {
    socket.set_ext_ack(true)?;
    socket.set_cap_ack(true)
}

/// A refusal.
#[derive(Debug)]
pub(super) struct Refusal {
    error: io::Error,
    message: Option<String>,
}

impl Refusal {
    /// Parses an answer. It must repeat only the header of the request (`NETLINK_CAP_ACK`).
    pub(super) fn new(answer: &ErrorMessage) -> Self {
        Self {
            error: answer.to_io(),
            message: answer.header.get(HEADER_BYTES..).and_then(message),
        }
    }

    /// Parses an answer from the bytes behind its netlink header. `None`: the request is acknowledged.
    pub(super) fn from_payload(payload: &[u8]) -> Option<Self> {
        let buffer = ErrorBuffer::new_checked(&payload).ok()?;
        let answer = ErrorMessage::parse(&buffer).ok()?;
        answer.code.map(|_| Self::new(&answer))
    }

    /// The error number.
    pub(super) fn raw_os_error(&self) -> Option<i32> {
        self.error.raw_os_error()
    }

    /// The kind of error.
    pub(super) fn kind(&self) -> io::ErrorKind {
        self.error.kind()
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self {
            error,
            message: None,
        }
    }
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        refusal.error
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)?;
        if let Some(message) = &self.message {
            return write!(f, "; the kernel reports: {}", message);
        }
        if self.raw_os_error() == Some(libc::EPERM) {
            write!(f, "; run as root or grant CAP_NET_ADMIN")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

/// The message among the attributes of an answer. An attribute begins with its length, which includes the
/// header, and its type; the next one is aligned to four bytes.
fn message(mut attributes: &[u8]) -> Option<String> {
    loop {
        let (length, rest) = attributes.split_first_chunk()?;
        let (kind, _) = rest.split_first_chunk()?;
        let length = usize::from(u16::from_ne_bytes(*length));
        if u16::from_ne_bytes(*kind) == MESSAGE_ATTRIBUTE {
            let text = attributes.get(4..length)?;
            let text = text.strip_suffix(&[0]).unwrap_or(text);
            return Some(String::from_utf8_lossy(text).into_owned())
                .filter(|text| !text.is_empty());
        }
        // A length of zero would make this loop endless.
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + payload.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn the_message_is_found_among_attributes() {
        let offset = attribute(2, &24_u32.to_ne_bytes());
        let text = attribute(1, b"IPv6 is disabled on nexthop device\0");
        let said = Some("IPv6 is disabled on nexthop device".to_owned());
        assert_eq!(message(&text), said);
        assert_eq!(message(&[offset.clone(), text].concat()), said);
        assert_eq!(message(&offset), None);
        assert_eq!(message(&[]), None);
    }

    #[test]
    fn answers_are_read_behind_their_header() {
        let answer = |code: i32, attributes: &[u8]| {
            [&code.to_ne_bytes()[..], &[0; HEADER_BYTES], attributes].concat()
        };
        let refused = answer(-libc::EPERM, &attribute(1, b"not yours\0"));
        let refusal = Refusal::from_payload(&refused).unwrap();
        let told = refusal.to_string();
        assert!(told.ends_with("; the kernel reports: not yours"), "{told}");
        let plain = Refusal::from_payload(&answer(-libc::EPERM, &[])).unwrap();
        assert!(plain.to_string().ends_with("CAP_NET_ADMIN"), "{plain}");
        assert!(Refusal::from_payload(&answer(0, &[])).is_none());
        assert!(Refusal::from_payload(&[1, 2]).is_none());
    }

    #[test]
    fn garbage_ends() {
        assert_eq!(message(&[0; 64]), None);
        assert_eq!(message(&[255; 7]), None);
        assert_eq!(message(&attribute(1, &[])), None);
        assert_eq!(message(&[255, 255, 1, 0, b'x']), None);
    }
}
