//! Splits bytes into lines, within limits: the server controls neither the amount of stored data
//! nor how long it is stored.

use zeroize::Zeroizing;

use super::error::Problem;

/// The longest line, in bytes; AICCU accepted 1,024.
pub(super) const MAX_LINE_BYTES: usize = 4096;

/// The longest reply, in bytes: a list of some hundreds of tunnels.
pub(super) const MAX_REPLY_BYTES: usize = 64 * 1024;
pub(super) const MAX_REPLY_LINES: usize = 512;

/// The reply that is being received. Lines may contain a password, so all are wiped.
pub(super) struct Lines {
    /// The incomplete line; its buffer is never reallocated.
    begun: Zeroizing<Vec<u8>>,
    reply_bytes: usize,
    reply_lines: usize,
}

impl Lines {
    pub(super) fn new() -> Self {
        Self {
            begun: Zeroizing::new(Vec::with_capacity(MAX_LINE_BYTES)),
            reply_bytes: 0,
            reply_lines: 0,
        }
    }

    /// Starts a new reply.
    pub(super) fn reset(&mut self) {
        self.reply_bytes = 0;
        self.reply_lines = 0;
    }

    /// Consumes `bytes` up to the end of a line, or all of them. A line is returned without its end
    /// (LF or CRLF).
    pub(super) fn next(&mut self, bytes: &mut &[u8]) -> Result<Option<Zeroizing<String>>, Problem> {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(bytes.len(), |at| at + 1);
        self.reply_bytes = self.reply_bytes.saturating_add(taken);
        if self.begun.len() + taken > MAX_LINE_BYTES {
            return Err(Problem::TooMuchData("a line", MAX_LINE_BYTES, "bytes"));
        }
        if self.reply_bytes > MAX_REPLY_BYTES {
            return Err(Problem::TooMuchData("a reply", MAX_REPLY_BYTES, "bytes"));
        }
        let (now, later) = bytes.split_at(taken);
        self.begun.extend_from_slice(now);
        *bytes = later;
        if end.is_none() {
            return Ok(None);
        }
        self.reply_lines += 1;
        if self.reply_lines > MAX_REPLY_LINES {
            return Err(Problem::TooMuchData("a reply", MAX_REPLY_LINES, "lines"));
        }
        let line = self.begun.strip_suffix(b"\n").unwrap_or(&self.begun);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = str::from_utf8(line).map(|line| Zeroizing::new(line.to_owned()));
        // Wipe the line before the buffer is cleared.
        let line = line.map_err(|_| Problem::Garbage("a line that is not UTF-8".to_owned()));
        self.begun.iter_mut().for_each(|byte| *byte = 0);
        self.begun.clear();
        line.map(Some)
    }

    /// Length and capacity of the buffer for the incomplete line.
    #[cfg(test)]
    pub(super) fn buffer_size(&self) -> (usize, usize) {
        (self.begun.len(), self.begun.capacity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_in_any_pieces() {
        let text = b"200 one\r\n\n201 two\nrest";
        for size in 1..=text.len() {
            let mut lines = Lines::new();
            let mut found = Vec::new();
            for mut piece in text.chunks(size) {
                while let Some(line) = lines.next(&mut piece).unwrap() {
                    found.push(line.to_string());
                }
            }
            assert_eq!(found, ["200 one", "", "201 two"], "{size}");
            assert_eq!(lines.buffer_size(), (4, MAX_LINE_BYTES));
        }
    }

    #[test]
    fn bounds() {
        let mut lines = Lines::new();
        let fits = [b'x'; MAX_LINE_BYTES - 1];
        assert_eq!(lines.next(&mut &fits[..]), Ok(None));
        assert!(lines.next(&mut &b"\n"[..]).unwrap().is_some());
        let long = [b'x'; MAX_LINE_BYTES + 1];
        assert!(matches!(
            lines.next(&mut &long[..]),
            Err(Problem::TooMuchData("a line", ..))
        ));

        let mut lines = Lines::new();
        let many = "x\n".repeat(MAX_REPLY_LINES + 1);
        let mut rest = many.as_bytes();
        for _ in 0..MAX_REPLY_LINES {
            assert!(lines.next(&mut rest).unwrap().is_some());
        }
        assert!(matches!(
            lines.next(&mut rest),
            Err(Problem::TooMuchData("a reply", _, "lines"))
        ));

        let mut lines = Lines::new();
        let line = [&[b'x'; 4000][..], b"\n"].concat();
        let until = (0..).find(|_| lines.next(&mut line.as_slice()).is_err());
        assert_eq!(until, Some(16));
        lines.reset();
        assert!(lines.next(&mut line.as_slice()).is_ok());
    }

    #[test]
    fn replies_up_to_their_limits_are_taken() {
        let lines_of = |text: &str| {
            let (mut lines, mut bytes) = (Lines::new(), text.as_bytes());
            let mut count = 0;
            while lines.next(&mut bytes)?.is_some() {
                count += 1;
            }
            Ok::<_, Problem>(count)
        };
        let line = |bytes: usize| "x".repeat(bytes - 1) + "\n";
        assert_eq!(lines_of(&line(MAX_LINE_BYTES)), Ok(1));
        assert!(lines_of(&line(MAX_LINE_BYTES + 1)).is_err());
        assert!(lines_of(&"x".repeat(MAX_LINE_BYTES + 1)).is_err());
        let whole = MAX_REPLY_BYTES / MAX_LINE_BYTES;
        assert_eq!(lines_of(&line(MAX_LINE_BYTES).repeat(whole)), Ok(whole));
        assert!(lines_of(&(line(MAX_LINE_BYTES).repeat(whole) + "\n")).is_err());
        assert_eq!(lines_of(&"\n".repeat(MAX_REPLY_LINES)), Ok(MAX_REPLY_LINES));
        assert!(lines_of(&"\n".repeat(MAX_REPLY_LINES + 1)).is_err());
    }
}
