//! The module tree of each crate, and which file imports which.
//!
//! Paths are resolved by name, through imports and re-exports, without types: a method call is no import. A
//! re-export that its own file does not use is none either, because it only passes a name on.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use crate::check::{
    rust::{self, Token, group},
    source::File,
};

/// Files and their imports.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    /// Each importing file, the files that it imports, and a path that does so.
    pub(crate) imports: BTreeMap<PathBuf, BTreeMap<PathBuf, String>>,
}

impl Graph {
    /// The imports within each crate of these sources.
    pub(crate) fn of(files: &[File]) -> Self {
        let sources: Sources<'_> = files
            .iter()
            .map(|file| (file.path.as_path(), file.text.as_str()))
            .collect();
        let mut graph = Self::default();
        for root in sources.keys().filter(|path| is_root(path)) {
            let mut tree = Tree::default();
            let directory = root.parent().unwrap_or(Path::new("")).to_path_buf();
            tree.read(&sources, root, &directory, &[]);
            // A file of another package that `#[path]` includes is not part of this crate's order.
            tree.modules
                .retain(|_, module| module.file.starts_with(package(root)));
            tree.resolve(&mut graph);
        }
        graph
    }
}

type Sources<'a> = BTreeMap<&'a Path, &'a str>;

/// The path of a module or an item from the root of its crate.
type Name = Vec<String>;

/// The directory of the package of a file.
fn package(path: &Path) -> &Path {
    path.iter().next().map_or(path, Path::new)
}

/// Whether cargo takes a file for the root of a crate.
fn is_root(path: &Path) -> bool {
    let parts: Vec<_> = path.iter().filter_map(|part| part.to_str()).collect();
    match parts[..] {
        [_, "src", "lib.rs" | "main.rs"]
        | [_, "src", "bin", _, "main.rs"]
        | [_, "tests" | "examples" | "benches", _, "main.rs"] => true,
        [_, "src", "bin", file] | [_, "tests" | "examples" | "benches", file] => {
            file.ends_with(".rs")
        }
        _ => false,
    }
}

#[derive(Debug, Default)]
struct Module {
    file: PathBuf,
    children: BTreeSet<String>,
    uses: Vec<Use>,
    /// Paths in code.
    references: Vec<Name>,
    /// Words in code outside of `use`.
    words: BTreeSet<String>,
    /// What `uses` bring into scope, from the root of the crate.
    scope: BTreeMap<String, Name>,
}

impl Module {
    /// Notes a path in code, which may be a single word, by the token before it.
    fn word(&mut self, path: Name, before: &str) {
        // The name of a method is not the name of an import.
        if before != "."
            && let Some(first) = path.first()
        {
            self.words.insert(first.clone());
        }
        if path.len() > 1 && before != "::" {
            self.references.push(path);
        }
    }
}

/// One name of a `use` declaration.
#[derive(Debug, PartialEq, Eq)]
struct Use {
    path: Name,
    /// Its name here; `None` for `*` and `_`.
    alias: Option<String>,
    is_glob: bool,
    is_public: bool,
}

#[derive(Debug, Default)]
struct Tree {
    modules: BTreeMap<Name, Module>,
}

impl Tree {
    /// Reads a file as module `name`, and the files of its modules, which are below `directory`.
    fn read(&mut self, sources: &Sources<'_>, file: &Path, directory: &Path, name: &[String]) {
        let Some(text) = sources.get(file) else {
            return;
        };
        let all = rust::tokens(text);
        let tokens = rust::without_tests(&all);
        self.read_module(sources, &tokens, file, directory, name);
    }

    fn read_module(
        &mut self,
        sources: &Sources<'_>,
        tokens: &[Token<'_>],
        file: &Path,
        directory: &Path,
        name: &[String],
    ) {
        let mut module = Module {
            file: file.to_path_buf(),
            ..Module::default()
        };
        let mut path_attribute = None;
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            let text = |offset: usize| tokens.get(at + offset).map_or("", |token| token.text);
            let before = at.checked_sub(1).map_or("", |at| tokens[at].text);
            at += match (token.text, text(1), text(2)) {
                ("path", "=", literal) if before == "[" => {
                    path_attribute = Some(literal.trim_matches('"').to_owned());
                    3
                }
                ("mod", child, next @ (";" | "{")) => {
                    module.children.insert(child.to_owned());
                    let child_name = [name, &[child.to_owned()]].concat();
                    let inner = directory.join(child);
                    let attribute = path_attribute.take();
                    if next == "{" {
                        let length = group(&tokens[at + 2..]);
                        let body = &tokens[at + 3..at + 1 + length];
                        self.read_module(sources, body, file, &inner, &child_name);
                        2 + length
                    } else {
                        if let Some(file) = module_file(sources, file, &inner, attribute) {
                            self.read(sources, &file, &inner, &child_name);
                        }
                        3
                    }
                }
                // `use<'a>` is a bound.
                ("use", next, _) if next != "<" => {
                    let is_public = matches!(before, "pub" | ")");
                    use_declaration(&tokens[at..], is_public, &mut module.uses)
                }
                _ if token.is_word() => {
                    let path = path(&tokens[at..]);
                    let length = 2 * path.len() - 1;
                    module.word(path, before);
                    length
                }
                _ => 1,
            };
        }
        self.modules.insert(name.to_vec(), module);
    }

    /// Adds the imports of all modules.
    fn resolve(&mut self, graph: &mut Graph) {
        // The second time, a `use` may begin with a name that another one brought into scope.
        for _ in 0..2 {
            let mut scopes = Vec::new();
            for (name, module) in &self.modules {
                let named = module
                    .uses
                    .iter()
                    .filter_map(|one| Some((one.alias.clone()?, self.absolute(name, &one.path)?)));
                scopes.push((name.clone(), named.collect::<BTreeMap<_, _>>()));
            }
            for (name, scope) in scopes {
                if let Some(module) = self.modules.get_mut(&name) {
                    module.scope = scope;
                }
            }
        }
        for (name, module) in &self.modules {
            let is_used = |one: &&Use| {
                let alias = one.alias.as_ref();
                !one.is_public || alias.is_some_and(|alias| module.words.contains(alias))
            };
            let uses = module.uses.iter().filter(is_used);
            let uses = uses.map(|one| (&one.path, one.is_glob));
            let references = module.references.iter().map(|path| (path, false));
            for (path, is_glob) in uses.chain(references) {
                let Some(absolute) = self.absolute(name, path) else {
                    continue;
                };
                let (file, is_module) = self.target(&absolute, 8);
                if *file != module.file && (is_glob || !is_module) {
                    let imports = graph.imports.entry(module.file.clone()).or_default();
                    let path = || path.join("::");
                    imports.entry(file.to_path_buf()).or_insert_with(path);
                }
            }
        }
    }

    /// A path in module `name`, from the root of the crate; `None` if it leads out of the crate.
    fn absolute(&self, name: &[String], path: &[String]) -> Option<Name> {
        let module = self.modules.get(name)?;
        let (first, rest) = path.split_first()?;
        let base = match first.as_str() {
            "crate" => Vec::new(),
            "self" => name.to_vec(),
            "super" => {
                let (_, parent) = name.split_last()?;
                if rest.first().is_some_and(|next| next == "super") {
                    return self.absolute(parent, rest);
                }
                parent.to_vec()
            }
            _ if module.children.contains(first) => [name, std::slice::from_ref(first)].concat(),
            _ => module.scope.get(first)?.clone(),
        };
        Some([&base, rest].concat())
    }

    /// The file that has what a path names, and whether that is the module itself.
    fn target(&self, path: &[String], most_hops: usize) -> (&Path, bool) {
        let mut length = 0;
        while self.modules.contains_key(&path[..length]) && length < path.len() {
            length += 1;
        }
        let is_module = self.modules.contains_key(path);
        if !is_module {
            length = length.saturating_sub(1);
        }
        let Some(module) = self.modules.get(&path[..length]) else {
            return (Path::new(""), true);
        };
        if let Some((first, rest)) = path[length..].split_first()
            && let Some(elsewhere) = module.scope.get(first)
            && most_hops > 0
        {
            return self.target(&[elsewhere, rest].concat(), most_hops - 1);
        }
        (&module.file, is_module)
    }
}

/// The file of a module that is declared in `file`. `inner` is the directory of its own modules.
fn module_file(
    sources: &Sources<'_>,
    file: &Path,
    inner: &Path,
    attribute: Option<String>,
) -> Option<PathBuf> {
    let candidates = match attribute {
        Some(path) => vec![beside(file, &path)],
        None => vec![inner.with_extension("rs"), inner.join("mod.rs")],
    };
    let mut candidates = candidates.into_iter();
    candidates.find(|file| sources.contains_key(file.as_path()))
}

/// A path of `#[path]`, which counts from the directory of its file.
fn beside(file: &Path, path: &str) -> PathBuf {
    let mut found = file.parent().unwrap_or(Path::new("")).to_path_buf();
    for part in Path::new(path).iter() {
        if part == ".." {
            found.pop();
        } else {
            found.push(part);
        }
    }
    found
}

/// The words of the path at the beginning, with `::` between.
fn path(tokens: &[Token<'_>]) -> Name {
    let mut path = Vec::new();
    for pair in tokens.chunks(2) {
        path.extend(pair.first().map(|word| word.text.to_owned()));
        let is_longer = pair.get(1).is_some_and(|token| token.text == "::")
            && tokens.get(2 * path.len()).is_some_and(Token::is_word);
        if !is_longer {
            break;
        }
    }
    path
}

/// Reads a `use` declaration; its number of tokens.
fn use_declaration(tokens: &[Token<'_>], is_public: bool, uses: &mut Vec<Use>) -> usize {
    let end = tokens.iter().position(|token| token.text == ";");
    let length = end.unwrap_or(tokens.len());
    let mut tree = &tokens[1..length];
    use_tree(&mut tree, &[], is_public, uses);
    length
}

/// Reads a tree of a `use` declaration and leaves what follows it.
fn use_tree(tokens: &mut &[Token<'_>], base: &[String], is_public: bool, uses: &mut Vec<Use>) {
    let mut path = base.to_vec();
    let mut is_glob = false;
    while let Some((token, rest)) = tokens.split_first() {
        *tokens = rest;
        match token.text {
            "::" => {}
            "*" => is_glob = true,
            "{" => {
                while tokens.first().is_some_and(|token| token.text != "}") {
                    use_tree(tokens, &path, is_public, uses);
                }
                *tokens = tokens.get(1..).unwrap_or_default();
                // The comma after the group.
                if tokens.first().is_some_and(|token| token.text == ",") {
                    *tokens = &tokens[1..];
                }
                return;
            }
            "," => break,
            "self" if !path.is_empty() => {}
            word => path.push(word.to_owned()),
        }
        if tokens.first().is_some_and(|token| token.text == "}") {
            break;
        }
    }
    let renamed = path.iter().position(|word| word == "as");
    let renamed = renamed
        .map(|at| path.split_off(at))
        .and_then(|mut end| end.pop());
    let alias = renamed.or_else(|| path.last().cloned());
    uses.push(Use {
        alias: alias.filter(|alias| !is_glob && alias != "_"),
        path,
        is_glob,
        is_public,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<_> = files
            .iter()
            .map(|(path, text)| File {
                path: format!("a/src/{path}").into(),
                text: (*text).to_owned(),
            })
            .collect();
        let short = |path: &Path| path.strip_prefix("a/src").unwrap().display().to_string();
        let graph = Graph::of(&files);
        let edges = graph.imports.iter().flat_map(|(from, to)| {
            to.keys()
                .map(move |to| format!("{} {}", short(from), short(to)))
        });
        edges.collect()
    }

    #[test]
    fn trees_of_use_are_read() {
        let text = "a::{self, b::{C as D, E}, f::*}, g as _";
        let tokens = rust::tokens(text);
        let mut uses = Vec::new();
        use_tree(&mut &tokens[..], &[], false, &mut uses);
        let shown: Vec<_> = uses
            .iter()
            .map(|one| format!("{} {:?} {}", one.path.join("::"), one.alias, one.is_glob))
            .collect();
        assert_eq!(
            shown,
            [
                "a Some(\"a\") false",
                "a::b::C Some(\"D\") false",
                "a::b::E Some(\"E\") false",
                "a::f None true",
            ]
        );
    }

    #[test]
    fn imports_are_found_in_every_form() {
        let main = ("main.rs", "mod x; mod y;");
        for (text, is_import) in [
            ("use crate::y::A;", true),
            ("use super::y::A;", true),
            ("use crate::{y::{A}};", true),
            ("use crate::y::*;", true),
            ("use super::y; fn f() { y::g() }", true),
            ("use super::y as z; fn f() { z::g() }", true),
            ("fn f() { crate::y::g() }", true),
            ("mod inner { use super::super::y::A; }", true),
            ("// use crate::y::A;", false),
            ("const T: &str = \"crate::y::A\";", false),
            ("#[cfg(test)] mod tests { use crate::y::A; }", false),
            ("use crate::y;", false),
            ("use y::A; fn f() { other::y::g() }", false),
            ("fn f(a: impl Iterator + use<>) { g::<u8>() }", false),
        ] {
            let found = graph(&[main, ("x.rs", text), ("y.rs", "")]);
            assert_eq!(found == ["x.rs y.rs"], is_import, "{text}: {found:?}");
        }
    }

    #[test]
    fn re_exports_lead_to_the_file_that_has_the_item() {
        let files = [
            ("lib.rs", "pub mod x; pub mod y;"),
            ("x.rs", "use crate::y::A; fn f() { crate::y::g() }"),
            ("y/mod.rs", "mod z; pub use self::z::A; fn g() {}"),
            ("y/z.rs", "use super::g;"),
        ];
        let expected = ["x.rs y/mod.rs", "x.rs y/z.rs", "y/z.rs y/mod.rs"];
        assert_eq!(graph(&files), expected);
    }

    #[test]
    fn a_re_export_that_its_file_uses_is_an_import() {
        let files = [
            ("lib.rs", "mod y;"),
            (
                "y/mod.rs",
                "mod w; mod z; pub(crate) use z::A; pub use w::b; fn g() -> A { x.b() }",
            ),
            ("y/w.rs", ""),
            ("y/z.rs", ""),
        ];
        assert_eq!(graph(&files), ["y/mod.rs y/z.rs"]);
    }

    #[test]
    fn files_of_modules_are_found() {
        let files = [
            (
                "lib.rs",
                "mod x; #[path = \"far/w.rs\"] mod v; use x::y::A; use v::B;",
            ),
            ("x.rs", "pub mod y;"),
            ("x/y.rs", ""),
            ("far/w.rs", ""),
        ];
        assert_eq!(graph(&files), ["lib.rs far/w.rs", "lib.rs x/y.rs"]);
    }
}
