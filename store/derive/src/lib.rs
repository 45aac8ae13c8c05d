//! `#[derive(DomainEvent)]`. What it means is documented at the trait `evstore::DomainEvent`.

mod expand;
mod parse;

use proc_macro::TokenStream;

/// Makes an enum the events of an aggregate; see the trait `evstore::DomainEvent`.
#[proc_macro_derive(DomainEvent, attributes(event))]
pub fn derive_domain_event(input: TokenStream) -> TokenStream {
    let input = syn::parse_macro_input!(input as syn::DeriveInput);
    match parse::EventEnum::parse(&input) {
        Ok(events) => expand::expand(&events).into(),
        Err(error) => error.into_compile_error().into(),
    }
}
