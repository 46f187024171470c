//! Laws of doc comments: a first sentence that can be read alone, and public functions that say when they fail.

use anyhow::Context;
use syn::visit::{self, Visit};

use super::syntax::{attributes, is_test_only};
use super::{Problem, Source};

/// Beginnings of sentences that need their neighbour to be understood.
const FRAGMENTS: [&str; 19] = [
    "The same",
    "Of ",
    "Its ",
    "Their ",
    "One of them",
    "One that ",
    "All of them",
    "All but ",
    "Both ",
    "None of ",
    "What ",
    "Who ",
    "Them",
    "They ",
    "It ",
    "Those ",
    "These ",
    "He ",
    "Says ",
];

/// Checks every doc comment of production code.
///
/// # Errors
/// A file cannot be parsed.
pub fn check(sources: &[Source]) -> anyhow::Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for source in sources.iter().filter(|source| !source.is_test()) {
        let file = syn::parse_file(&source.text).with_context(|| format!("cannot parse {}", source.path))?;
        let mut reader = Reader { source, of_trait: false, problems: &mut problems };
        reader.visit_file(&file);
    }
    Ok(problems)
}

struct Reader<'a> {
    source: &'a Source,
    /// Whether the functions read now belong to an implementation of a trait, which documents them.
    of_trait: bool,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    fn problem(&mut self, line: usize, what: impl Into<String>) {
        self.problems.push(Problem::new(format!("{}:{line}", self.source.path), what));
    }

    fn function(&mut self, visibility: &syn::Visibility, attributes: &[syn::Attribute], signature: &syn::Signature) {
        let syn::ReturnType::Type(_, returned) = &signature.output else { return };
        if self.of_trait || !matches!(visibility, syn::Visibility::Public(_)) || !is_result(returned) {
            return;
        }
        let text: Vec<String> = attributes.iter().filter_map(doc_line).map(|(_, text)| text).collect();
        if !text.iter().any(|line| line.trim() == "# Errors") {
            let line = signature.ident.span().start().line;
            self.problem(line, format!("{} returns Result and has no `# Errors` section", signature.ident));
        }
    }
}

/// A line of documentation and where it stands.
fn doc_line(attribute: &syn::Attribute) -> Option<(usize, String)> {
    let syn::Meta::NameValue(pair) = &attribute.meta else { return None };
    let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) = &pair.value else { return None };
    pair.path.is_ident("doc").then(|| (text.span().start().line, text.value()))
}

fn is_result(returned: &syn::Type) -> bool {
    let syn::Type::Path(path) = returned else { return false };
    path.path.segments.last().is_some_and(|segment| segment.ident == "Result")
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !is_test_only(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let before = std::mem::replace(&mut self.of_trait, item.trait_.is_some());
        visit::visit_item_impl(self, item);
        self.of_trait = before;
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.vis, &item.attrs, &item.sig);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.vis, &item.attrs, &item.sig);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if matches!(attribute.style, syn::AttrStyle::Inner(_)) {
            return;
        }
        let Some((line, text)) = doc_line(attribute) else { return };
        // The first line of a comment only: the one before it is no comment.
        let above = line.checked_sub(2).and_then(|index| self.source.text.lines().nth(index)).unwrap_or_default();
        if above.trim_start().starts_with("///") {
            return;
        }
        let text = text.trim_start();
        if let Some(fragment) = FRAGMENTS.iter().find(|fragment| text.starts_with(**fragment)) {
            self.problem(
                line,
                format!("a doc that begins with {:?} cannot be read alone: name the thing", fragment.trim()),
            );
        }
    }
}
