//! Answers to paths and methods that no route takes.

use wrenn_contract::rest::error::ErrorCode;

use crate::answer::ApiError;

pub(super) async fn no_such_route() -> ApiError {
    ApiError::new(ErrorCode::NotFound, "there is no such route; /docs lists them all")
}

pub(super) async fn no_such_method() -> ApiError {
    ApiError::new(ErrorCode::MethodNotAllowed, "this path does not take that method; /docs lists what there is")
}
