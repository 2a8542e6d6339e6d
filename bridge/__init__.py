"""Ejoin Bridge: RabbitMQ in, SMS out through Ejoin GSM gateways, everything they call back as typed events."""
