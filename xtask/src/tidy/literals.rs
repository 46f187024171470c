//! Laws of string literals: error codes stand in their definition alone, and every setting the programs read is in `.env.example`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context;
use syn::visit::{self, Visit};

use super::syntax::{attributes, is_test_only};
use super::{Problem, Source};

/// Where the error codes are defined.
const CODES: &str = "crates/domain/src/error_code.rs";
/// The programs' settings, for people.
const EXAMPLE: &str = ".env.example";
/// Beginnings of names of settings.
const SETTINGS: [&str; 8] = ["WRENN_", "CP_", "OAUTH_", "SMTP_", "JWT_", "DATABASE_", "REDIS_", "LOG_LEVEL"];
/// Beginnings of names that are no settings of the programs: of tests, of developer commands and of what guests see.
const NO_SETTINGS: [&str; 3] = ["WRENN_TEST_", "WRENN_BUILD_", "WRENN_GUEST_"];

/// Checks both laws.
///
/// # Errors
/// A file cannot be read or parsed.
pub fn check(root: &Path, sources: &[Source]) -> anyhow::Result<Vec<Problem>> {
    let mut problems = Vec::new();
    let codes: BTreeSet<String> = sources
        .iter()
        .filter(|source| source.path == CODES)
        .map(literals)
        .collect::<anyhow::Result<Vec<_>>>()?
        .into_iter()
        .flatten()
        .map(|(_, text)| text)
        .filter(|text| text.len() > 1 && text.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        // Words of everyday use as well.
        .filter(|text| text.contains('_'))
        .collect();
    let mut read: BTreeMap<String, String> = BTreeMap::new();
    for source in sources.iter().filter(|s| s.path.starts_with("crates/") && !s.is_test()) {
        for (line, text) in literals(source)? {
            let position = format!("{}:{line}", source.path);
            if source.path != CODES && codes.contains(&text) {
                problems.push(Problem::new(&position, format!("{text:?}: name the error code, not its text")));
            }
            if is_setting(&text) {
                read.entry(text).or_insert(position);
            }
        }
    }
    problems.extend(settings(root, &read)?);
    Ok(problems)
}

fn settings(root: &Path, read: &BTreeMap<String, String>) -> anyhow::Result<Vec<Problem>> {
    let text = std::fs::read_to_string(root.join(EXAMPLE)).context(EXAMPLE)?;
    let explained: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.trim_start_matches('#').split_once('=').map(|(name, _)| name))
        .filter(|name| is_setting(name))
        .collect();
    let missing = read.iter().filter(|(name, _)| !explained.contains(name.as_str()));
    let stale = explained.iter().filter(|name| !read.contains_key(**name));
    Ok(missing
        .map(|(name, position)| Problem::new(position, format!("{name} is not explained in {EXAMPLE}")))
        .chain(stale.map(|name| Problem::new(EXAMPLE, format!("{name} is read by no program"))))
        .collect())
}

fn is_setting(text: &str) -> bool {
    let upper = text.len() > 4 && text.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    upper
        && !text.ends_with('_')
        && SETTINGS.iter().any(|prefix| text.starts_with(prefix))
        && !NO_SETTINGS.iter().any(|prefix| text.starts_with(prefix))
}

/// Every string literal of a file's production code, with its line.
fn literals(source: &Source) -> anyhow::Result<Vec<(usize, String)>> {
    let file = syn::parse_file(&source.text).with_context(|| format!("cannot parse {}", source.path))?;
    let mut found = Literals(Vec::new());
    found.visit_file(&file);
    Ok(found.0)
}

struct Literals(Vec<(usize, String)>);

impl Literals {
    fn tokens(&mut self, tokens: proc_macro2::TokenStream) {
        for token in tokens {
            match token {
                proc_macro2::TokenTree::Group(group) => self.tokens(group.stream()),
                proc_macro2::TokenTree::Literal(literal) => {
                    let line = literal.span().start().line;
                    if let Ok(text) = syn::parse_str::<syn::LitStr>(&literal.to_string()) {
                        self.0.push((line, text.value()));
                    }
                }
                _ => {}
            }
        }
    }
}

impl<'ast> Visit<'ast> for Literals {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !is_test_only(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_lit_str(&mut self, literal: &'ast syn::LitStr) {
        self.0.push((literal.span().start().line, literal.value()));
    }

    fn visit_macro(&mut self, found: &'ast syn::Macro) {
        self.tokens(found.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if let syn::Meta::List(list) = &attribute.meta {
            self.tokens(list.tokens.clone());
        }
    }
}
