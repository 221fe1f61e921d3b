//! The contract: OpenAPI 3.1, made from the handlers, and completed by what holds for all of them.

use std::iter;

use axum::http::Method;
use utoipa::openapi::path::{HttpMethod, Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBody;
use utoipa::openapi::schema::{ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Required, ResponseBuilder,
};
use utoipa::{PartialSchema, ToSchema};

use super::problem::{Fault, Problem};
use crate::access::{Class, routes};

/// The document.
pub fn document() -> OpenApi {
    let (_, mut document) = super::routes().split_for_parts();
    for (path, item) in &mut document.paths.paths {
        let operations = [
            (HttpMethod::Get, item.get.as_mut()),
            (HttpMethod::Post, item.post.as_mut()),
            (HttpMethod::Delete, item.delete.as_mut()),
        ];
        for (method, operation) in operations {
            let Some(operation) = operation else {
                continue;
            };
            name(operation);
            if path.starts_with("/v1/") {
                complete(path, &method, operation);
            }
            guard(path, &method, operation);
        }
    }
    document
}

/// The same, as it is sent.
pub(super) fn text() -> String {
    let mut text = document()
        .to_pretty_json()
        .expect("it holds texts, numbers, and maps by text");
    text.push('\n');
    text
}

/// What comes before the paths.
pub(super) fn head() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Orchestrator")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Progressive rollouts. Errors are `application/problem+json` (RFC 9457) with everything that is wrong \
             with a request at once. A path answers 405 to a method that it has not. A server that never had a token, \
             and that only its own machine can reach, asks for none.",
        ))
        .build();
    let mut head = OpenApiBuilder::new()
        .info(info)
        .security(Some(SCHEMES.map(scheme)))
        .build();
    let components = head.components.get_or_insert_default();
    let token = Http::builder()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("A token: `orc_…`"));
    let password = Http::builder()
        .scheme(HttpAuthScheme::Basic)
        .description(Some("A token as the password, of whatever name"));
    for (name, scheme) in SCHEMES.into_iter().zip([token, password]) {
        components.add_security_scheme(name, SecurityScheme::Http(scheme.build()));
    }
    for (name, schema) in [
        (Problem::name(), Problem::schema()),
        (Fault::name(), Fault::schema()),
    ] {
        components.schemas.insert(name.into_owned(), schema);
    }
    head
}

/// The ways in which a token is shown.
const SCHEMES: [&str; 2] = ["bearer", "basic"];

fn scheme(name: &str) -> SecurityRequirement {
    SecurityRequirement::new(name, iter::empty::<String>())
}

/// Handlers of two resources have the same names.
fn name(operation: &mut Operation) {
    let tag = operation.tags.iter().flatten().next();
    if let (Some(tag), Some(id)) = (tag, &operation.operation_id) {
        operation.operation_id = Some(format!("{tag}_{id}"));
    }
}

/// Bodies that may be left out.
const OPTIONAL: [&str; 3] = ["Fail", "Nothing", "RollBack"];

fn may_be_left_out(body: &RequestBody) -> bool {
    let contents = body.content.values().filter_map(|content| match content {
        RefOr::T(content) => content.schema.as_ref(),
        RefOr::Ref(_) => None,
    });
    let mut names = contents.filter_map(|schema| match schema {
        RefOr::Ref(schema) => schema.ref_location.rsplit('/').next(),
        RefOr::T(_) => None,
    });
    names.any(|name| OPTIONAL.contains(&name))
}

/// What holds for every route: how a command is made to happen once, and what else than success may be answered.
fn complete(path: &str, method: &HttpMethod, operation: &mut Operation) {
    let posts = *method == HttpMethod::Post;
    let parameters = operation.parameters.get_or_insert_default();
    if posts {
        let key = ObjectBuilder::new()
            .schema_type(Type::String)
            .min_length(Some(1))
            .max_length(Some(orchestrator_core::KEY_BYTES_MAX))
            .pattern(Some("^[ -~]+$"));
        let key = ParameterBuilder::new()
            .name("Idempotency-Key")
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some(format!(
                "The same request under the same key is carried out once, and answered as the first time. Of each job, \
                 and of all nodes together, the last {} keys are remembered",
                orchestrator_core::KEYS_KEPT
            )))
            .schema(Some(key));
        parameters.push(RefOr::T(key.build()));
    }
    let is_of_agents = path.starts_with("/v1/agent/");
    if is_of_agents {
        let agent = ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some("^[A-Za-z0-9._-]{1,200}$"));
        let agent = ParameterBuilder::new()
            .name("Orchestrator-Agent")
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some(
                "Which agent it is. While one of them is heard, another one is refused for the same node",
            ))
            .schema(Some(agent));
        parameters.push(RefOr::T(agent.build()));
    }
    if let Some(RefOr::T(body)) = operation.request_body.as_mut() {
        body.required = Some(match may_be_left_out(body) {
            true => Required::False,
            false => Required::True,
        });
    }
    let expects = |parameter: &RefOr<Parameter>| match parameter {
        RefOr::T(parameter) => parameter.name.starts_with("expected_"),
        RefOr::Ref(_) => false,
    };
    let guarded = parameters.iter().any(expects);
    if guarded {
        let tag = ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::Custom("etag".to_owned())))
            .pattern(Some("^\"[0-9]{1,19}\"$"));
        let tag = ParameterBuilder::new()
            .name("If-Match")
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some(
                "The ETag that the caller has seen: refuse it if there is a newer one",
            ))
            .schema(Some(tag));
        parameters.push(RefOr::T(tag.build()));
    }
    let has_body = *method != HttpMethod::Get;
    let named = path.contains('{') || is_of_agents;
    let statuses = [
        ("400", true, "The request cannot be read"),
        ("404", named, "There is no such thing"),
        ("408", has_body, "The body came too slowly"),
        (
            "409",
            posts || is_of_agents,
            "What is there does not allow it",
        ),
        ("412", guarded, "It has changed meanwhile"),
        ("413", has_body, "The body is too large"),
        ("415", has_body, "The body is no JSON"),
        ("422", has_body, "What the request says is wrong"),
        ("503", true, "Not now: after a while it may be done"),
    ];
    for (status, _, description) in statuses.into_iter().filter(|(_, may, _)| *may) {
        answers(operation, status, description);
    }
}

/// Whoever may not, and what he is answered.
fn guard(path: &str, method: &HttpMethod, operation: &mut Operation) {
    let method = match method {
        HttpMethod::Post => Method::POST,
        HttpMethod::Delete => Method::DELETE,
        _ => Method::GET,
    };
    if routes::native(&method, path) == Some(Class::Public) {
        operation.security = Some(Vec::new());
        return;
    }
    answers(operation, "401", "It takes a token that is good");
    answers(operation, "403", "Not for this caller");
    let too_many = match path {
        "/v1/agent/logs" => {
            "There is more output than is taken; or too many tokens from this address were not good"
        }
        _ => "Too many tokens from this address were not good",
    };
    answers(operation, "429", too_many);
}

fn answers(operation: &mut Operation, status: &str, description: &str) {
    let problem = Ref::from_schema_name(Problem::name());
    let content = ContentBuilder::new().schema(Some(RefOr::Ref(problem)));
    let response = ResponseBuilder::new()
        .description(description)
        .content("application/problem+json", content.build());
    let responses = &mut operation.responses.responses;
    responses.insert(status.to_owned(), RefOr::T(response.build()));
}
