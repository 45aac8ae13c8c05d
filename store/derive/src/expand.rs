//! Writes the implementation of `DomainEvent`.

use crate::parse::{EventEnum, Unknown, Variant};
use proc_macro2::TokenStream;
use quote::quote;

pub fn expand(events: &EventEnum) -> TokenStream {
    let name = &events.name;
    let (generics, arguments, conditions) = events.generics.split_for_impl();
    let types = events.variants.iter().flat_map(|variant| &variant.names);
    let encode = events.variants.iter().map(encode_arm).chain(encode_unknown(&events.unknown));
    let decode = events.variants.iter().map(decode_arm);
    let unknown = decode_unknown(&events.unknown);
    quote! {
        #[automatically_derived]
        impl #generics ::evstore::DomainEvent for #name #arguments #conditions {
            const TYPES: &'static [&'static str] = &[#(#types),*];

            fn encode(&self) -> ::evstore::api::Result<::evstore::api::NewEvent> {
                match self {
                    #(#encode)*
                }
            }

            fn decode(
                event: &::evstore::api::Event,
            ) -> ::evstore::api::Result<::core::option::Option<Self>> {
                match event.event_type.as_str() {
                    #(#decode)*
                    #unknown
                }
            }
        }
    }
}

fn encode_arm(variant: &Variant) -> TokenStream {
    let Variant { ident, names, schema, .. } = variant;
    let name = &names[0];
    quote! { Self::#ident { .. } => ::evstore::__private::encode(self, #name, #schema), }
}

fn encode_unknown(unknown: &Unknown) -> Option<TokenStream> {
    match unknown {
        Unknown::Keep(ident) => Some(quote! { Self::#ident(raw) => ::evstore::__private::encode_raw(raw), }),
        Unknown::Refuse | Unknown::Skip => None,
    }
}

fn decode_arm(variant: &Variant) -> TokenStream {
    let Variant { index, names, schema, upcasts, .. } = variant;
    let old = upcasts.iter().map(|(from, function)| {
        quote! { #from => #function(::evstore::__private::decode_old(event)?), }
    });
    quote! {
        #(#names)|* => ::core::result::Result::Ok(::core::option::Option::Some(match event.schema {
            #schema => ::evstore::__private::decode(event, #index)?,
            #(#old)*
            _ => return ::core::result::Result::Err(::evstore::__private::unknown_schema(event, #schema)),
        })),
    }
}

fn decode_unknown(unknown: &Unknown) -> TokenStream {
    match unknown {
        Unknown::Refuse => quote! {
            _ => ::core::result::Result::Err(
                ::evstore::__private::unknown_type(event, <Self as ::evstore::DomainEvent>::TYPES),
            ),
        },
        Unknown::Skip => quote! { _ => ::core::result::Result::Ok(::core::option::Option::None), },
        Unknown::Keep(ident) => quote! {
            _ => ::core::result::Result::Ok(::core::option::Option::Some(
                Self::#ident(::core::convert::From::from(event)),
            )),
        },
    }
}
