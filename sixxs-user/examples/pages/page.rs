//! A page in the language of man(7), a part at a time.

/// The page so far.
#[derive(Debug)]
pub(crate) struct Page(String);

impl Page {
    /// With its head.
    pub(crate) fn new(name: &str, section: u8, what: &str) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        Self(format!(
            ".TH {} {section} \"\" \"sixxs {version}\" sixxs\n.SH NAME\n{} \\- {}\n",
            name.to_uppercase(),
            escaped(name),
            escaped(what)
        ))
    }

    /// A line that is an instruction.
    pub(crate) fn request(&mut self, line: &str) {
        self.begin(line);
        self.0.push('\n');
    }

    /// The same, which is still to be ended.
    pub(crate) fn begin(&mut self, line: &str) {
        self.end_line();
        self.0 += line;
    }

    /// Text, of one or more lines.
    pub(crate) fn text(&mut self, text: &str) {
        for line in text.split_inclusive('\n') {
            // At the beginning of a line these would be instructions.
            if self.0.ends_with('\n') && line.starts_with(['.', '\'']) {
                self.0 += r"\&";
            }
            self.0 += &escaped(line);
        }
    }

    /// Text in the typeface of this letter.
    pub(crate) fn in_typeface(&mut self, letter: char, text: &str) {
        self.0 += &format!(r"\f{letter}{}\fR", escaped(text));
    }

    /// What is in the page's language already.
    pub(crate) fn text_as_is(&mut self, text: &str) {
        self.0 += text;
    }

    /// Ends a line that was begun.
    pub(crate) fn end_line(&mut self) {
        if !self.0.ends_with('\n') {
            self.0.push('\n');
        }
    }

    /// What was written.
    pub(crate) fn into_bytes(mut self) -> Vec<u8> {
        self.end_line();
        self.0.into_bytes()
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', r"\e").replace('-', r"\-")
}
