//! The syntax of one source file, without its tests: which paths it names, which items it holds, which of them it re-exports.

use std::collections::{BTreeSet, HashMap};

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// A path as it stands in the source, with the line it stands in.
pub struct NamedPath {
    pub segments: Vec<String>,
    pub line: usize,
}

/// The names one file declares, imports and uses.
#[derive(Default)]
pub struct Syntax {
    /// Items and modules the file declares.
    pub declared: BTreeSet<String>,
    /// Imports that nobody outside sees: local name, then path.
    pub imports: HashMap<String, Vec<String>>,
    /// Imports that others see under this file's name: local name, then path.
    pub reexports: HashMap<String, Vec<String>>,
    /// Modules whose every public name is visible under this file's name.
    pub glob_reexports: Vec<Vec<String>>,
    /// Paths of imports that are no re-exports, and of everything the code names.
    pub used: Vec<NamedPath>,
    /// Names of everything the file declares, fields, functions and variants included, each as a path of one segment.
    pub named: Vec<NamedPath>,
}

/// Whether an item exists in test builds only.
pub fn is_test_only(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else { return attribute.path().is_ident("test") };
        list.path.is_ident("cfg") && list.tokens.to_string() == "test"
    })
}

/// The attributes of an item, whatever kind it is of.
pub fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(i) => &i.attrs,
        syn::Item::Enum(i) => &i.attrs,
        syn::Item::ExternCrate(i) => &i.attrs,
        syn::Item::Fn(i) => &i.attrs,
        syn::Item::ForeignMod(i) => &i.attrs,
        syn::Item::Impl(i) => &i.attrs,
        syn::Item::Macro(i) => &i.attrs,
        syn::Item::Mod(i) => &i.attrs,
        syn::Item::Static(i) => &i.attrs,
        syn::Item::Struct(i) => &i.attrs,
        syn::Item::Trait(i) => &i.attrs,
        syn::Item::TraitAlias(i) => &i.attrs,
        syn::Item::Type(i) => &i.attrs,
        syn::Item::Union(i) => &i.attrs,
        syn::Item::Use(i) => &i.attrs,
        _ => &[],
    }
}

impl Syntax {
    /// Reads a parsed file.
    pub fn of(file: &syn::File) -> Self {
        let mut syntax = Self::default();
        file.items.iter().filter(|item| !is_test_only(attributes(item))).for_each(|item| syntax.declare(item));
        syntax.visit_file(file);
        syntax
    }

    fn declare(&mut self, item: &syn::Item) {
        let name = match item {
            syn::Item::Const(i) => &i.ident,
            syn::Item::Enum(i) => &i.ident,
            syn::Item::Fn(i) => &i.sig.ident,
            syn::Item::Mod(i) => &i.ident,
            syn::Item::Static(i) => &i.ident,
            syn::Item::Struct(i) => &i.ident,
            syn::Item::Trait(i) => &i.ident,
            syn::Item::Type(i) => &i.ident,
            syn::Item::Union(i) => &i.ident,
            syn::Item::Macro(syn::ItemMacro { ident: Some(ident), .. }) => ident,
            syn::Item::Use(i) => return self.import(i),
            _ => return,
        };
        self.declared.insert(name.to_string());
    }

    fn name(&mut self, ident: &syn::Ident) {
        self.named.push(NamedPath { segments: vec![ident.to_string()], line: ident.span().start().line });
    }

    fn import(&mut self, item: &syn::ItemUse) {
        let seen_outside = !matches!(item.vis, syn::Visibility::Inherited);
        let line = item.span().start().line;
        let mut leaves = Vec::new();
        leaves_of(&item.tree, &mut Vec::new(), &mut leaves);
        for (path, name) in leaves {
            match (seen_outside, name) {
                (true, Some(name)) => drop(self.reexports.insert(name, path)),
                (true, None) => self.glob_reexports.push(path),
                (false, name) => {
                    self.used.push(NamedPath { segments: path.clone(), line });
                    if let Some(name) = name {
                        self.imports.insert(name, path);
                    }
                }
            }
        }
    }

    /// Macros are not parsed: their tokens are searched for paths.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let (mut line, mut colons) = (0, 0);
        for token in tokens {
            match token {
                TokenTree::Ident(ident) if colons == 2 && !path.is_empty() => path.push(ident.to_string()),
                TokenTree::Ident(ident) => {
                    self.end_of_path(&mut path, line);
                    line = ident.span().start().line;
                    path.push(ident.to_string());
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => {
                    colons += 1;
                    continue;
                }
                TokenTree::Group(group) => {
                    self.end_of_path(&mut path, line);
                    self.tokens(group.stream());
                }
                _ => self.end_of_path(&mut path, line),
            }
            colons = 0;
        }
        self.end_of_path(&mut path, line);
    }

    fn end_of_path(&mut self, path: &mut Vec<String>, line: usize) {
        if path.len() > 1 {
            self.used.push(NamedPath { segments: std::mem::take(path), line });
        }
        path.clear();
    }
}

/// Every path of a tree of imports, with the name it has in the file; none for all names of a module.
fn leaves_of(tree: &syn::UseTree, before: &mut Vec<String>, leaves: &mut Vec<(Vec<String>, Option<String>)>) {
    match tree {
        syn::UseTree::Path(path) => {
            before.push(path.ident.to_string());
            leaves_of(&path.tree, before, leaves);
            before.pop();
        }
        syn::UseTree::Group(group) => group.items.iter().for_each(|tree| leaves_of(tree, before, leaves)),
        syn::UseTree::Glob(_) => leaves.push((before.clone(), None)),
        syn::UseTree::Name(name) if name.ident == "self" => leaves.push((before.clone(), before.last().cloned())),
        syn::UseTree::Name(name) => {
            let path = before.iter().cloned().chain([name.ident.to_string()]).collect();
            leaves.push((path, Some(name.ident.to_string())));
        }
        syn::UseTree::Rename(rename) => {
            let path = before.iter().cloned().chain([rename.ident.to_string()]).collect();
            leaves.push((path, Some(rename.rename.to_string())));
        }
    }
}

impl<'ast> Visit<'ast> for Syntax {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !is_test_only(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.name(&item.sig.ident);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.name(&item.sig.ident);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        self.name(&item.sig.ident);
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.name(&item.ident);
        visit::visit_item_struct(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.name(&item.ident);
        visit::visit_item_enum(self, item);
    }

    fn visit_variant(&mut self, variant: &'ast syn::Variant) {
        self.name(&variant.ident);
        visit::visit_variant(self, variant);
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        field.ident.iter().for_each(|ident| self.name(ident));
        visit::visit_field(self, field);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.name(&item.ident);
        visit::visit_item_trait(self, item);
    }

    fn visit_item_use(&mut self, _: &'ast syn::ItemUse) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if segments.len() > 1 {
            self.used.push(NamedPath { segments, line: path.span().start().line });
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, found: &'ast syn::Macro) {
        self.visit_path(&found.path);
        self.tokens(found.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if let syn::Meta::List(list) = &attribute.meta {
            self.tokens(list.tokens.clone());
        }
    }
}
