//! Who may call whom inside the large crates: the table of modules in docs/ARCHITECTURE.md against the paths the code names, and
//! files that need each other in a circle.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use anyhow::Context;

use super::syntax::Syntax;
use super::{Problem, Source, section};

/// Production lines from which on a crate must be in the table.
const LINES_WITHOUT_TABLE_MAX: usize = 3000;
const ARCHITECTURE: &str = "docs/ARCHITECTURE.md";

/// Allowed directions of one crate: module, then the modules of the same crate it may name.
type Directions = BTreeMap<String, BTreeSet<String>>;

/// The part of docs/ARCHITECTURE.md that speaks of modules.
#[derive(Default)]
struct Table {
    crates: BTreeMap<String, Directions>,
    /// Files that may need each other in a circle, by crate.
    circles: Vec<(String, BTreeSet<String>)>,
}

/// One file of a crate as a module.
struct Module<'a> {
    source: &'a Source,
    syntax: Syntax,
}

/// One crate: its modules by their paths below `crate`.
struct Tree<'a> {
    modules: BTreeMap<Vec<String>, Module<'a>>,
}

/// A file's need of another: the line that names it.
type Needs = BTreeMap<Vec<String>, BTreeMap<Vec<String>, usize>>;

/// Compares the table with the code and refuses circles it does not declare.
///
/// # Errors
/// The table or a file cannot be read or parsed.
pub fn check(root: &Path, sources: &[Source]) -> anyhow::Result<Vec<Problem>> {
    let table = Table::read(root)?;
    let mut problems = Vec::new();
    for name in crates(sources) {
        let of_crate: Vec<&Source> = files_of(&name, sources).collect();
        let lines: usize = of_crate.iter().map(|source| source.production().count()).sum();
        let tree = Tree::parse(&name, of_crate)?;
        let needs = tree.needs();
        match table.crates.get(&name) {
            Some(directions) => problems.extend(tree.judge(&name, directions, &needs)),
            None if lines > LINES_WITHOUT_TABLE_MAX => {
                let what = format!("{name} has {lines} lines and no directions of its modules");
                problems.push(Problem::new(ARCHITECTURE, what));
            }
            None => {}
        }
        for circle in circles(&needs) {
            let files: BTreeSet<String> = circle.iter().map(|path| tree.file(&name, path)).collect();
            let declared = table.circles.iter().any(|(krate, set)| *krate == name && files.is_subset(set));
            if !declared {
                let list: Vec<String> = files.into_iter().collect();
                problems
                    .push(Problem::new(format!("crates/{name}"), format!("files in a circle: {}", list.join(", "))));
            }
        }
    }
    Ok(problems)
}

fn crates(sources: &[Source]) -> BTreeSet<String> {
    sources.iter().filter_map(|s| s.path.strip_prefix("crates/")?.split('/').next()).map(str::to_owned).collect()
}

/// Production files of a crate's library.
fn files_of<'a>(name: &str, sources: &'a [Source]) -> impl Iterator<Item = &'a Source> {
    let src = format!("crates/{name}/src/");
    sources.iter().filter(move |source| {
        let Some(inside) = source.path.strip_prefix(&src) else { return false };
        !source.path.ends_with("/tests.rs") && !inside.contains("tests/") && !inside.starts_with("bin/")
    })
}

impl Table {
    /// Lines like `control: rest -> auth, service; tasks -> service`; `*` stands for every module of the crate. A line like
    /// `circle in control: context.rs, extension/context.rs` declares one.
    fn read(root: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(root.join(ARCHITECTURE)).context(ARCHITECTURE)?;
        let mut table = Self::default();
        for line in section(&text, "modules")?.lines() {
            let line = line.trim().trim_start_matches("- ").replace('`', "");
            let Some((name, rest)) = line.split_once(':') else { continue };
            let list = |text: &str| -> BTreeSet<String> {
                text.split(',').map(|word| word.trim().to_owned()).filter(|word| word != "none").collect()
            };
            if let Some(name) = name.strip_prefix("circle in ") {
                table.circles.push((name.to_owned(), list(rest)));
                continue;
            }
            let directions = table.crates.entry(name.to_owned()).or_default();
            for direction in rest.split(';') {
                let (from, to) = direction.split_once("->").with_context(|| format!("{ARCHITECTURE}: {direction}"))?;
                for module in list(from) {
                    directions.entry(module).or_default().extend(list(to));
                }
            }
        }
        Ok(table)
    }
}

impl<'a> Tree<'a> {
    fn parse(name: &str, files: Vec<&'a Source>) -> anyhow::Result<Self> {
        let src = format!("crates/{name}/src/");
        let mut modules = BTreeMap::new();
        for source in files {
            let inside = source.path.strip_prefix(&src).unwrap_or_default().trim_end_matches(".rs");
            // A program of its own: it uses the library by the crate's name.
            if inside == "main" && source.text.contains(&format!("wrenn_{name}::")) {
                continue;
            }
            let path: Vec<String> =
                inside.split('/').filter(|part| !matches!(*part, "mod" | "lib" | "main")).map(str::to_owned).collect();
            let parsed = syn::parse_file(&source.text).with_context(|| format!("cannot parse {}", source.path))?;
            modules.insert(path, Module { source, syntax: Syntax::of(&parsed) });
        }
        Ok(Self { modules })
    }

    fn file(&self, name: &str, path: &[String]) -> String {
        let whole = self.modules.get(path).map(|module| module.source.path.as_str()).unwrap_or_default();
        whole.trim_start_matches(&format!("crates/{name}/src/")).to_owned()
    }

    /// Resolves what every file needs to the files that really declare it.
    fn needs(&self) -> Needs {
        let mut needs = Needs::new();
        for (path, module) in &self.modules {
            for used in &module.syntax.used {
                let Some(absolute) = self.absolute(path, &used.segments) else { continue };
                let Some(owner) = self.owner(&absolute, 0) else { continue };
                if owner != *path {
                    needs.entry(path.clone()).or_default().entry(owner).or_insert(used.line);
                }
            }
        }
        needs
    }

    /// A path below `crate`; none for what belongs to other crates.
    fn absolute(&self, module: &[String], segments: &[String]) -> Option<Vec<String>> {
        let (first, rest) = segments.split_first()?;
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            "self" => Some([module, rest].concat()),
            "super" => {
                let (_, above) = module.split_last()?;
                match rest.first().map(String::as_str) {
                    Some("super") => self.absolute(above, rest),
                    _ => Some([above, rest].concat()),
                }
            }
            name => {
                let syntax = &self.modules.get(module)?.syntax;
                let child = [module, &[name.to_owned()]].concat();
                if self.modules.contains_key(&child) {
                    return Some([child, rest.to_vec()].concat());
                }
                let imported = syntax.imports.get(name).or_else(|| syntax.reexports.get(name))?;
                if imported.first().is_some_and(|f| f == name) {
                    return None;
                }
                let base = self.absolute(module, imported)?;
                Some([base, rest.to_vec()].concat())
            }
        }
    }

    /// The module that declares what a path leads to; none when it leads to a module itself, which is no need of anything in it.
    fn owner(&self, path: &[String], depth: usize) -> Option<Vec<String>> {
        // Re-exports of re-exports end somewhere.
        if depth > 8 {
            return None;
        }
        let mut known = path.len();
        while !self.modules.contains_key(&path[..known]) {
            known = known.checked_sub(1)?;
        }
        let (module, rest) = path.split_at(known);
        let name = rest.first()?;
        let syntax = &self.modules.get(module)?.syntax;
        if syntax.declared.contains(name) {
            return Some(module.to_vec());
        }
        let below = |target: &[String]| -> Option<Vec<String>> {
            let base = self.absolute(module, target)?;
            Some([base, rest[1..].to_vec()].concat())
        };
        if let Some(target) = syntax.reexports.get(name).or_else(|| syntax.imports.get(name)) {
            return self.owner(&below(target)?, depth + 1);
        }
        for glob in &syntax.glob_reexports {
            let Some(base) = self.absolute(module, glob) else { continue };
            let declares = self
                .modules
                .get(&base)
                .is_some_and(|m| m.syntax.declared.contains(name) || m.syntax.reexports.contains_key(name));
            if declares {
                return self.owner(&[base, rest.to_vec()].concat(), depth + 1);
            }
        }
        // Made by a macro in that file.
        Some(module.to_vec())
    }

    fn judge(&self, name: &str, directions: &Directions, needs: &Needs) -> Vec<Problem> {
        let mut problems = Vec::new();
        let rooms: BTreeSet<&String> = self.modules.keys().filter_map(|path| path.first()).collect();
        for stale in directions.iter().flat_map(|(from, to)| [from].into_iter().chain(to)).collect::<BTreeSet<_>>() {
            if stale != "*" && !rooms.contains(stale) {
                problems.push(Problem::new(ARCHITECTURE, format!("{name} has no module {stale}")));
            }
        }
        let all = directions.get("*");
        for (path, targets) in needs {
            let Some(room) = path.first() else { continue };
            for (target, line) in targets {
                // What lies in lib.rs itself belongs to all.
                let Some(other) = target.first().filter(|other| *other != room) else { continue };
                let allowed = [directions.get(room), all].into_iter().flatten().any(|may| may.contains(other));
                if !allowed {
                    let file = &self.modules[path].source.path;
                    problems.push(Problem::new(format!("{file}:{line}"), format!("{room} may not name {other}")));
                }
            }
        }
        problems
    }
}

/// Sets of files of which each needs each other, directly or by others (Tarjan's strongly connected components).
fn circles(needs: &Needs) -> Vec<Vec<Vec<String>>> {
    let mut search = Search::new(needs);
    for path in needs.keys() {
        if !search.index.contains_key(path) {
            search.visit(path);
        }
    }
    search.found
}

struct Search<'a> {
    needs: &'a Needs,
    index: HashMap<&'a Vec<String>, usize>,
    low: HashMap<&'a Vec<String>, usize>,
    open: Vec<&'a Vec<String>>,
    found: Vec<Vec<Vec<String>>>,
}

impl<'a> Search<'a> {
    fn new(needs: &'a Needs) -> Self {
        Self { needs, index: HashMap::new(), low: HashMap::new(), open: Vec::new(), found: Vec::new() }
    }

    fn visit(&mut self, path: &'a Vec<String>) {
        let number = self.index.len();
        self.index.insert(path, number);
        self.low.insert(path, number);
        self.open.push(path);
        for next in self.needs.get(path).into_iter().flat_map(|targets| targets.keys()) {
            if !self.index.contains_key(next) {
                self.visit(next);
                self.low.insert(path, self.low[path].min(self.low[next]));
            } else if self.open.contains(&next) {
                self.low.insert(path, self.low[path].min(self.index[next]));
            }
        }
        if self.low[path] == self.index[path] {
            let at = self.open.iter().position(|open| *open == path).unwrap_or(0);
            let circle: Vec<Vec<String>> = self.open.split_off(at).into_iter().cloned().collect();
            if circle.len() > 1 {
                self.found.push(circle);
            }
        }
    }
}

/// Prints the directions the code has today, in the table's form.
///
/// # Errors
/// A file cannot be parsed.
pub fn print(sources: &[Source]) -> anyhow::Result<()> {
    for name in crates(sources) {
        let tree = Tree::parse(&name, files_of(&name, sources).collect())?;
        let needs = tree.needs();
        let mut rooms: BTreeMap<&String, BTreeSet<&String>> = BTreeMap::new();
        for (path, targets) in &needs {
            let Some(room) = path.first() else { continue };
            rooms
                .entry(room)
                .or_default()
                .extend(targets.keys().filter_map(|t| t.first()).filter(|other| *other != room));
        }
        for (room, others) in rooms.into_iter().filter(|(_, others)| !others.is_empty()) {
            let list: Vec<&str> = others.into_iter().map(String::as_str).collect();
            println!("- {name}: `{room} -> {}`", list.join(", "));
        }
        for circle in circles(&needs) {
            let files: Vec<String> = circle.iter().map(|path| tree.file(&name, path)).collect();
            println!("- circle in {name}: {}", files.join(", "));
        }
    }
    Ok(())
}
