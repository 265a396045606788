//! The files of the page, which the program contains.

/// A file and its media type.
#[derive(Debug)]
pub(super) struct File {
    /// Its path on the server.
    path: &'static str,
    pub(super) media_type: &'static str,
    pub(super) text: &'static str,
}

const ALL: [File; 4] = [
    File {
        path: "/",
        media_type: "text/html; charset=utf-8",
        text: include_str!("files/page.html"),
    },
    File {
        path: "/page.css",
        media_type: "text/css; charset=utf-8",
        text: include_str!("files/page.css"),
    },
    File {
        path: "/page.js",
        media_type: "text/javascript; charset=utf-8",
        text: include_str!("files/page.js"),
    },
    File {
        path: "/icon.svg",
        media_type: "image/svg+xml",
        text: include_str!("files/icon.svg"),
    },
];

/// The file at a path.
pub(super) fn find(path: &str) -> Option<&'static File> {
    ALL.iter().find(|file| file.path == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_together_are_small() {
        let bytes: usize = ALL.iter().map(|file| file.text.len()).sum();
        assert!(bytes < 100_000, "{bytes} bytes");
    }

    /// The policy of the page forbids all of these; a browser would refuse them without a test.
    #[test]
    fn nothing_is_inline_or_foreign() {
        for file in &ALL {
            for refused in [
                "<style",
                " style=",
                "onclick",
                "innerHTML",
                "eval(",
                "https://",
            ] {
                assert!(!file.text.contains(refused), "{}: {refused}", file.path);
            }
        }
        let page = find("/").unwrap().text;
        assert_eq!(page.matches("<script").count(), 1);
        assert!(page.contains("<script type=\"module\" src=\"page.js\"></script>"));
        assert!(find("/page.html").is_none());
    }
}
