// Package eureka is the REST interface of Netflix's Eureka over the service
// registry, so that services which know how to register with Eureka need not
// change. It speaks XML and JSON in the shapes of Eureka's own server. Peers and
// regions it does not know: the nodes share their store instead.
package eureka
