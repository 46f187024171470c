//! Words that stay out of names: each has a term of the field that says more.

use super::syntax::Syntax;
use super::{Problem, Source};
use anyhow::Context;

/// A word that is no part of a name, and what to say instead.
const BANNED: [(&str, &str); 7] = [
    ("place", "path, position, permit or slot"),
    ("places", "paths, positions, permits or slots"),
    ("told", "notified, reported or sent"),
    ("wish", "request"),
    ("wishes", "requests"),
    ("look", "find, read or inspect"),
    ("owe", "enqueue"),
];

/// Checks the names of files and of everything they declare.
///
/// # Errors
/// A file cannot be parsed.
pub fn check(sources: &[Source]) -> anyhow::Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for source in sources.iter().filter(|source| !source.is_test()) {
        for part in source.path.trim_end_matches(".rs").split('/') {
            judge(part, &source.path, &mut problems);
        }
        let file = syn::parse_file(&source.text).with_context(|| format!("cannot parse {}", source.path))?;
        for name in Syntax::of(&file).named {
            judge(&name.segments[0], &format!("{}:{}", source.path, name.line), &mut problems);
        }
    }
    Ok(problems)
}

fn judge(name: &str, position: &str, problems: &mut Vec<Problem>) {
    for word in parts(name) {
        if let Some((banned, instead)) = BANNED.iter().find(|(banned, _)| *banned == word) {
            problems.push(Problem::new(position, format!("{name}: say {instead} instead of {banned}")));
        }
    }
}

/// The words of a name in snake case or camel case, in lower case.
fn parts(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for letter in name.chars() {
        if letter == '_' || letter.is_uppercase() {
            words.push(String::new());
        }
        if letter != '_' {
            words.last_mut().into_iter().for_each(|word| word.extend(letter.to_lowercase()));
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_judged_by_its_words_and_not_by_its_letters() {
        let refused = |name: &str| {
            let mut problems = Vec::new();
            judge(name, "here", &mut problems);
            !problems.is_empty()
        };
        assert!(refused("StreamPlaces") && refused("sandbox_place") && refused("is_told") && refused("Wish"));
        assert!(!refused("replace") && !refused("Placement") && !refused("allowed") && !refused("lookup"));
    }
}
