//! Unknown parameters of a query are refused by name: a filter that is silently ignored answers what was not asked.
//!
//! What a route knows is read from the API description, so the two cannot differ. Routes of extensions are not judged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::Method;
use utoipa::openapi::path::{Operation, Parameter};
use utoipa::openapi::{OpenApi, RefOr};

use crate::answer::ApiError;

/// A route to which another site sends browsers: it adds parameters of its own.
const CALLBACK: &str = "/auth/oauth/{provider}/callback";

/// Names of the parameters each route takes, by method and path.
pub(super) struct QueryRules(BTreeMap<(&'static str, String), BTreeSet<String>>);

impl QueryRules {
    /// Reads the rules of every route but those that other sites send browsers to.
    pub(super) fn of(api: &OpenApi) -> Arc<Self> {
        let mut rules = BTreeMap::new();
        for (path, item) in api.paths.paths.iter().filter(|(path, _)| *path != CALLBACK) {
            let operations = [
                ("GET", &item.get),
                ("PUT", &item.put),
                ("POST", &item.post),
                ("DELETE", &item.delete),
                ("PATCH", &item.patch),
            ];
            for (method, operation) in operations {
                if let Some(operation) = operation {
                    rules.insert((method, path.clone()), names(operation));
                }
            }
        }
        Arc::new(Self(rules))
    }

    /// The first parameter the route does not know, with those it knows.
    fn unknown<'a>(&self, method: &Method, path: &str, query: &'a str) -> Option<(&'a str, &BTreeSet<String>)> {
        let method = if *method == Method::HEAD { "GET" } else { method.as_str() };
        let (_, known) = self.0.iter().find(|((of, at), _)| *of == method && at == path)?;
        let names = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split('=').next().unwrap_or(pair));
        names.into_iter().find(|name| !known.contains(*name)).map(|name| (name, known))
    }
}

/// Parameters in the path are no parameters of the query, but no query ever has one of their names by mistake.
fn names(operation: &Operation) -> BTreeSet<String> {
    let name = |parameter: &RefOr<Parameter>| match parameter {
        RefOr::T(parameter) => parameter.name.clone(),
        RefOr::Ref(to) => to.ref_location.rsplit('/').next().unwrap_or_default().to_owned(),
    };
    operation.parameters.iter().flatten().map(name).collect()
}

/// Refuses a request whose query has a parameter its route does not know.
pub(super) async fn refuse_unknown(
    State(rules): State<Arc<QueryRules>>,
    path: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    if let (Some(path), Some(query)) = (&path, request.uri().query())
        && let Some((name, known)) = rules.unknown(request.method(), path.as_str(), query)
    {
        let name: String = name.chars().take(64).collect();
        let in_path = |known: &&String| path.as_str().contains(&format!("{{{known}}}"));
        let known: Vec<&str> = known.iter().filter(|known| !in_path(known)).map(String::as_str).collect();
        let taken =
            if known.is_empty() { "it takes none".to_owned() } else { format!("it takes {}", known.join(", ")) };
        let text = format!("the query is not valid: this route knows no parameter {name:?}; {taken}");
        return ApiError::invalid(text).into_response();
    }
    next.run(request).await
}
