// Asks whether a user is in an audience: go run . localhost:7443 accounts/acme/journeys/tiers/milestones/gold ann
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	milepost "milepost/v1"
)

func main() {
	// A connection carries 1,000 calls at a time: for more than 500, dial more than once.
	connection, err := grpc.Dial(os.Args[1], grpc.WithInsecure())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if key := os.Getenv("MILEPOST_API_KEY"); key != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+key)
	}
	answer, err := milepost.NewAudienceServiceClient(connection).CheckMembership(ctx, &milepost.CheckMembershipRequest{
		Audience: os.Args[2],
		UserId:   os.Args[3],
	})
	if err != nil {
		// The details of the status have an ErrorInfo with the reason.
		fmt.Fprintln(os.Stderr, status.Convert(err).Message(), status.Convert(err).Details())
		os.Exit(1)
	}
	fmt.Println(answer.GetMember())
}
