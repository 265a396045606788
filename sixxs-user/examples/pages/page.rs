//! Builds a manual page in the markup of man(7).

/// The text of the page up to now.
#[derive(Debug)]
pub(crate) struct Page(String);

impl Page {
    /// A page with its header. `what` is the short description.
    pub(crate) fn new(name: &str, section: u8, what: &str) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        Self(format!(
            ".TH {} {section} \"\" \"sixxs {version}\" sixxs\n.SH NAME\n{} \\- {}\n",
            name.to_uppercase(),
            escaped(name),
            escaped(what)
        ))
    }

    /// Adds a line with a request (an instruction of man(7)).
    pub(crate) fn request(&mut self, line: &str) {
        self.begin(line);
        self.0.push('\n');
    }

    /// Begins a line with a request. The caller ends the line.
    pub(crate) fn begin(&mut self, line: &str) {
        self.end_line();
        self.0 += line;
    }

    /// Adds text of one or more lines.
    pub(crate) fn text(&mut self, text: &str) {
        for line in text.split_inclusive('\n') {
            // At the beginning of a line, these characters would start a request.
            if self.0.ends_with('\n') && line.starts_with(['.', '\'']) {
                self.0 += r"\&";
            }
            self.0 += &escaped(line);
        }
    }

    /// Adds text in the typeface with this letter.
    pub(crate) fn in_typeface(&mut self, letter: char, text: &str) {
        self.0 += &format!(r"\f{letter}{}\fR", escaped(text));
    }

    /// Adds text that already is in the markup of man(7).
    pub(crate) fn text_as_is(&mut self, text: &str) {
        self.0 += text;
    }

    /// Ends the current line, unless it is empty.
    pub(crate) fn end_line(&mut self) {
        if !self.0.ends_with('\n') {
            self.0.push('\n');
        }
    }

    pub(crate) fn into_bytes(mut self) -> Vec<u8> {
        self.end_line();
        self.0.into_bytes()
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', r"\e").replace('-', r"\-")
}
