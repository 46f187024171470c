//! The error envelope and its codes. SDKs choose the exception class by `code`, so a code never changes its meaning.

use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};
pub use wrenn_domain::ErrorCode;

/// Body of every answer with a status of 400 or above.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    pub error: ErrorDetail,
}

/// Error for people and programs.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    #[schema(value_type = ErrorCodeSchema)]
    pub code: ErrorCode,
    /// Text for the user that says what to do.
    pub message: String,
    /// `req_` and 16 hex characters, also in the X-Request-ID response header.
    pub request_id: String,
}

/// Description of [`ErrorCode`] for OpenAPI: the closed set of wire strings. The type itself lives in the domain, which knows
/// no OpenAPI.
pub struct ErrorCodeSchema;

impl PartialSchema for ErrorCodeSchema {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(SchemaType::Type(Type::String))
            .enum_values(Some(ErrorCode::ALL.iter().map(|code| code.as_str())))
            .description(Some(
                "Code of an error, for programs. A code never changes its meaning; new ones may be added.",
            ))
            .into()
    }
}

impl ToSchema for ErrorCodeSchema {
    fn name() -> std::borrow::Cow<'static, str> {
        "ErrorCode".into()
    }
}
